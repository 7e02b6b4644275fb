"""Webhooks: signatures, requests, deliveries and receivers."""
