"""Untrusted input: users' URLs and files."""
