"""Comfy API v2, as its official clients speak it."""
