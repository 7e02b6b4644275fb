"""Screenshots of the pages for the docs, of a real `up` with the lite engine: `make screenshots`."""
