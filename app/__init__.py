"""The HTTP face of the product: routes, problems, OpenAPI, docs; the command line and the Python client."""

__version__ = "0.1.0"
