"""The lite engine: a server that speaks ComfyUI's protocol and executes model-free nodes on the CPU.

For trying and testing the product where no ComfyUI runs. Behaviour follows recordings of ComfyUI 0.33; the
conformance suite runs the same scenarios on both. It never pretends to diffuse: an unknown node is refused.
"""
