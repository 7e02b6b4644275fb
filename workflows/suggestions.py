"""The known name that was probably meant by an unknown one.

Comparing costs about a microsecond a name and much more for long ones, and a submission may hold many wrong names.
"""

import difflib
from collections.abc import Iterable
from itertools import islice

LONGEST_NAME = 200
MOST_NAMES = 4000


def suggestion(wrong: object, known: Iterable[object]) -> str:
    """A hint with up to three names that look like it; empty if none does, or if looking would take long."""
    if not isinstance(wrong, str) or len(wrong) > LONGEST_NAME:
        return ""
    names = [name for name in islice(known, MOST_NAMES) if isinstance(name, str)]
    close = difflib.get_close_matches(wrong, names, n=3)
    return f"did you mean {' or '.join(close)}?" if close else ""
