"""A process that does nothing until it is ended."""

import signal

signal.pause()
