"""What a check of the deployment found. The checks are made where the deployment is put together, never here."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. A finding that holds and has `advice` is a note."""

    check: str
    holds: bool
    detail: str
    advice: str = ""


Examine = Callable[[], Awaitable[Sequence[Finding]]]
"""Runs all checks. No text of a finding contains a secret."""
