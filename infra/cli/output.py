"""Output of the commands, their exit codes, and the error of a command that cannot do as asked.

Exit code 0 means success.
"""

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

FAILED = 1
"""The job failed, a download was incomplete, or a check or deployment failed."""
REFUSED = 2
"""The API refused the request, or the arguments are invalid."""
UNREACHABLE = 3
"""No API is configured or reachable, or Modal is unreachable or rejects the token."""
INTERRUPTED = 130
"""Ctrl-C was pressed, and the job was cancelled."""
CLOSED_PIPE = 141
"""The program that read the output has ended, as in `| head`. A shell reports 141 for others that end so."""
UNWRAPPED = 10_000
"""Columns of an output that is not a terminal, so that a table is not wrapped for a screen of 80."""

Json = dict[str, Any]
"""A JSON object, as the API answers it."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""All control and direction characters but tab and line feed."""


class Refused(Exception):
    """The command cannot do as asked. The message says what to do."""

    def __init__(self, message: str, code: int = REFUSED) -> None:
        super().__init__(message)
        self.code = code


def printable(text: str) -> str:
    """Return the text with escapes such as `\\x1b` in place of control characters.

    Errors, logs and the ids of nodes contain what a graph's author wrote, and a terminal obeys sequences in it: they
    clear the screen, change what was printed, or set the clipboard.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Terminal(Console):
    """A console that prints no control characters of the texts that it is given, and obeys no markup in them.

    It wraps lines for a terminal alone. Raises `BrokenPipeError` where rich would end the process.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, **options)
        if not self.is_terminal:
            self.width = UNWRAPPED

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704  rich calls it while it handles the BrokenPipeError

    def render_str(self, text: str, **options: Any) -> Text:
        # Here, and not in `print`: the cells of a table never reach `print` as texts.
        return super().render_str(printable(text), **options)

    def print_line(self, text: str, style: str | None = None) -> None:
        """Print the text as it is. A bracket in it is no markup, and a URL in it is not wrapped."""
        self.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def usable_folder(path: Path) -> Path:
    """Make the folder if it is missing. Raises `Refused` if no file can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise Refused(
            f"refused: no file can be written to {path}: {error.strerror}\n  → give another folder with --out"
        ) from None
    return path


def print_json(document: object, *, indent: int = 1) -> None:
    """Print the document to standard output."""
    sys.stdout.write(json.dumps(document, indent=indent) + "\n")
