"""Small objects that workers publish for the API; the last writer wins."""
