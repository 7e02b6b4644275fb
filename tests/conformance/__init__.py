"""The same scenarios against the lite engine and, where one is configured, real ComfyUI: both must do as recorded."""
