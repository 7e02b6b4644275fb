"""`comfyui-modal up`: the whole product as processes on one machine."""
