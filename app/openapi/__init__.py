"""The OpenAPI document, and the table of operations that it is made of."""
