"""The same scenarios on the lite engine and, if configured, real ComfyUI: both must act as recorded."""
