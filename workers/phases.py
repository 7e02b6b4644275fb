"""Measures the phases of a start."""

import contextlib
import time
from collections.abc import Iterator, MutableMapping


@contextlib.contextmanager
def timed(phases: MutableMapping[str, float], name: str) -> Iterator[None]:
    """Add the seconds of the block to its phase; a repeated phase is summed."""
    began = time.monotonic()
    try:
        yield
    finally:
        phases[name] = round(phases.get(name, 0.0) + time.monotonic() - began, 3)
