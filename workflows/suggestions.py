"""Suggests the known names that are most similar to an unknown one.

A submission may have many unknown names, and an engine has thousands of classes and files: rapidfuzz compares one name
with 4,000 in less than a millisecond.
"""

from collections.abc import Iterable
from itertools import islice

from rapidfuzz import fuzz, process

LONGEST_NAME = 200
MOST_NAMES = 4000
LEAST_SIMILARITY = 60
"""In percent of the characters that both names have, in the same order."""


def suggestion(wrong: object, known: Iterable[object]) -> str:
    """Return a hint with up to three similar names; empty if there is none, or if the name is too long to search."""
    if not isinstance(wrong, str) or len(wrong) > LONGEST_NAME:
        return ""
    names = [name for name in islice(known, MOST_NAMES) if isinstance(name, str) and len(name) <= LONGEST_NAME]
    close = process.extract(wrong, names, scorer=fuzz.ratio, limit=3, score_cutoff=LEAST_SIMILARITY)
    return f"did you mean {' or '.join(name for name, _, _ in close)}?" if close else ""
