"""What is checked with other people's verifiers in other languages: `make interop`."""
