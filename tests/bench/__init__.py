"""The benches of `make bench`: each runs real processes and prints rows of name, value and target."""
