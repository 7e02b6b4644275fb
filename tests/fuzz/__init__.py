"""Generated and malformed inputs in large numbers: `make fuzz`, and a part of each in `make test`."""
