"""The lite engine: a server that speaks ComfyUI's protocol and executes model-free nodes on the CPU.

It serves trials and tests without ComfyUI. Its behaviour follows recordings of ComfyUI 0.33; the conformance suite runs
the same scenarios on both. It does not imitate diffusion: an unknown node is refused.
"""
