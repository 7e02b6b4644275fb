"""Figures, by `make bench`: each bench runs real processes and prints rows of name, value and aim."""
