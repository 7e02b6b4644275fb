"""The HTTP operations, grouped by resource. Each module lists its own routes."""
