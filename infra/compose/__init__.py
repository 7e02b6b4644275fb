"""Dependency injection: a module for each kind of process, which imports only what that process runs.

The modules wire objects and make no decisions.
"""
