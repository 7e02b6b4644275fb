"""The command `comfyui-modal`: one module for each group of commands."""
