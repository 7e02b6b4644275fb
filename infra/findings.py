"""Checks and their findings. Each finding that is not simply good says what to do.

A check returns what it found, returns a `Note` for something that works but should be known, or raises `CheckFailed`.
A `StorageError` that it raises becomes a finding too.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from rich.console import Console

from app.findings import Finding
from storage.errors import StorageError

REACHABLE = "is it running, and reachable from here?"


@dataclass(frozen=True, slots=True)
class Note:
    """The result of a check that holds, with advice."""

    detail: str
    advice: str


class CheckFailed(Exception):
    """A check failed. `detail` says what was found, `advice` what to do."""

    def __init__(self, detail: str, advice: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.advice = advice


Check = Callable[[], Awaitable[str | Note]]


async def examine(checks: dict[str, Check]) -> AsyncIterator[Finding]:
    """Run the checks one after another. A `CheckFailed` or `StorageError` becomes a finding."""
    for name, check in checks.items():
        yield await _finding(name, check)


async def show(checks: dict[str, Check], console: Console) -> int:
    """Print each finding as soon as it is known. Return the number of failed checks."""
    failed = 0
    async for finding in examine(checks):
        failed += not finding.holds
        console.print(f"{_mark(finding)} {finding.check}: ", end="", highlight=False, markup=True)
        console.print(finding.detail, highlight=False, markup=False, soft_wrap=True)
        if finding.advice:
            console.print(f"     → {finding.advice}", highlight=False, markup=False, soft_wrap=True)
    return failed


def _mark(finding: Finding) -> str:
    if not finding.holds:
        return "[red]FAIL[/]"
    return "[yellow]note[/]" if finding.advice else "[green]ok  [/]"


async def _finding(name: str, check: Check) -> Finding:
    try:
        seen = await check()
    except CheckFailed as failure:
        return Finding(name, holds=False, detail=failure.detail, advice=failure.advice)
    except StorageError as error:
        return Finding(name, holds=False, detail=f"{type(error).__name__}: {error}", advice=REACHABLE)
    if isinstance(seen, Note):
        return Finding(name, holds=True, detail=seen.detail, advice=seen.advice)
    return Finding(name, holds=True, detail=seen)
