"""Webhook requests for third-party verifiers in other languages: `make interop`."""
