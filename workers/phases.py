"""How long the phases of a start take."""

import contextlib
import time
from collections.abc import Iterator, MutableMapping


@contextlib.contextmanager
def timed(phases: MutableMapping[str, float], name: str) -> Iterator[None]:
    """Adds what the block takes, in seconds; of a phase that comes again, the sum."""
    began = time.monotonic()
    try:
        yield
    finally:
        phases[name] = round(phases.get(name, 0.0) + time.monotonic() - began, 3)
