"""Drives one ComfyUI server: its process, its HTTP and WebSocket interfaces, one prompt from submission to history."""
