"""Output helpers of the commands."""

import json
import sys

from rich.console import Console

from app.cli.exit_codes import REFUSED


def print_json(document: object, *, indent: int = 1) -> int:
    """Print the document to standard output. Returns 0, for a command that ends with it."""
    sys.stdout.write(json.dumps(document, indent=indent) + "\n")
    return 0


def refuse(message: str) -> int:
    """Print the message to standard error. Returns REFUSED."""
    Console(stderr=True).print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    return REFUSED
