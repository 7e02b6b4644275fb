"""The version of the client, in a module of its own: the build reads it, and the client sends it."""

__version__ = "0.1.0"
