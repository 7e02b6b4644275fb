"""Our conversion of the editor's files beside ComfyUI's own frontend: same, refused, or different."""
