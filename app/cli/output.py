"""What the commands print."""

import json
import sys

from rich.console import Console

from app.cli.exit_codes import REFUSED


def print_json(document: object, *, indent: int = 1) -> int:
    """Returns the exit code of a command that is done with this."""
    sys.stdout.write(json.dumps(document, indent=indent) + "\n")
    return 0


def refuse(message: str) -> int:
    """The exit code of a command that cannot do what it was asked to."""
    Console(stderr=True).print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    return REFUSED
