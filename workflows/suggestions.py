"""The known name that was probably meant by an unknown one."""

import difflib
from collections.abc import Iterable


def suggestion(wrong: object, known: Iterable[object]) -> str:
    """A hint with up to three names that look like it; empty if none does."""
    names = [name for name in known if isinstance(name, str)]
    close = difflib.get_close_matches(wrong, names, n=3) if isinstance(wrong, str) else []
    return f"did you mean {' or '.join(close)}?" if close else ""
