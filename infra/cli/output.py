"""Output of the commands, and their exit codes. Exit code 0 means success."""

import json
import re
import sys
from typing import Any

from rich.console import Console

FAILED = 1
"""The job failed, a download was incomplete, or a check or deployment failed."""
REFUSED = 2
"""The API refused the request, or the arguments are invalid."""
UNREACHABLE = 3
"""No API is configured or reachable, or Modal is unreachable or rejects the token."""
INTERRUPTED = 130
"""Ctrl-C was pressed, and the job was cancelled."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""All control and direction characters but tab and line feed."""


def printable(text: str) -> str:
    """Return the text with escapes such as `\\x1b` in place of control characters.

    Errors, logs and the ids of nodes contain what a graph's author wrote, and a terminal obeys sequences in it: they
    clear the screen, change what was printed, or set the clipboard.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Terminal(Console):
    """A console that prints no control characters of the texts that it is given."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(one) if isinstance(one, str) else one for one in objects), **options)


def print_json(document: object, *, indent: int = 1) -> int:
    """Print the document to standard output. Returns 0, for a command that ends with it."""
    sys.stdout.write(json.dumps(document, indent=indent) + "\n")
    return 0


def refuse(message: str) -> int:
    """Print the message to standard error. Returns REFUSED."""
    Terminal(stderr=True).print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    return REFUSED
