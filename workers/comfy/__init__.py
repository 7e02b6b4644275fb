"""Driving one ComfyUI server: its process, its HTTP and WebSocket faces, one prompt from submission to history."""
