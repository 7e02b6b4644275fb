"""Composition roots: settings, the local runtime, the Modal app and the command `comfyui-modal`."""
