"""Inputs that nobody would write, in numbers: `make fuzz`, and a slice of each in `make test`."""
