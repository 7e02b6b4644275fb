"""Pure knowledge of ComfyUI workflows: graphs, messages, progress. No I/O in this room."""
