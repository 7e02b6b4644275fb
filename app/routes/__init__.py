"""The HTTP operations, by what they are about. Each file lists its own routes."""
