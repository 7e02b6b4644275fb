"""The HTTP API, one module a noun: its handlers, its response models, and its entries of the OpenAPI document."""
