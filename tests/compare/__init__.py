"""`make compare` compares how real ComfyUI and this project treat each graph of a folder."""
