"""`make compare`: what real ComfyUI makes of each graph of a folder, and what this project makes of it."""
