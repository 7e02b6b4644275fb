"""Thousands of mixed requests, good and hostile, and what the API's memory does meanwhile: `make soak`."""
