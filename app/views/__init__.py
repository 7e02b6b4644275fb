"""Records as clients see them, in answers and in events."""
