"""Shipped workflows, by name. They need no model, so they run on the lite engine and on any ComfyUI."""
