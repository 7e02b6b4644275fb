"""`comfyui-modal up`: the whole product as processes of one machine."""
