"""Settings for HTTP clients of the tests, whose servers use no TLS."""

import ssl

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""The `verify` of a client. Without it each new client loads all CA certificates, which takes 40 ms."""
