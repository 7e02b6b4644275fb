"""Suggests the known names that are most similar to an unknown one.

difflib takes 20 microseconds for each name and more for long ones, an engine has thousands of names, and a submission
may have many unknown ones. So difflib compares only the names that share most letter pairs with the unknown one.
"""

import difflib
from collections.abc import Iterable
from heapq import nlargest
from itertools import islice

LONGEST_NAME = 200
MOST_NAMES = 4000
MOST_PAIRS = 32
MOST_COMPARED = 32


def suggestion(wrong: object, known: Iterable[object]) -> str:
    """Return a hint with up to three similar names; empty if there is none, or if the name is too long to search."""
    if not isinstance(wrong, str) or len(wrong) > LONGEST_NAME:
        return ""
    names = [name for name in islice(known, MOST_NAMES) if isinstance(name, str) and len(name) <= LONGEST_NAME]
    close = difflib.get_close_matches(wrong, _nearest(wrong, names), n=3)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _nearest(wrong: str, names: list[str]) -> list[str]:
    if len(names) <= MOST_COMPARED:
        return names
    # A long name is sampled: its pairs are compared with each of thousands of names.
    step = max(1, len(wrong) // MOST_PAIRS)
    pairs = [wrong[start : start + 2] for start in range(0, max(1, len(wrong) - 1), step)]
    return nlargest(MOST_COMPARED, names, key=lambda name: sum(pair in name for pair in pairs))
