"""Composition roots: settings, the local runtime, the Modal app, the command `comfyui-modal`."""
