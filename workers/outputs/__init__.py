"""Turns a node's results into objects in the bucket."""
