"""The OpenAPI document, and the table of operations from which it is built."""
