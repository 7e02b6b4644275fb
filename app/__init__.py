"""The HTTP API of the product: routes, problems, OpenAPI and docs. Also the command line and the Python client."""

__version__ = "0.1.0"
