"""For HTTP clients of the tests, whose servers speak no TLS."""

import ssl

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""A client's `verify`. Without it each new client loads the certificates of all authorities, which takes 40 ms."""
