"""Converts stored records to the models of responses and events."""
