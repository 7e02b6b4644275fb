"""Follows the logs of `up`'s processes, and says in one line which job has ended, and how.

Whichever process commits the end of a job logs it (`storage.jobs.store`): a worker, the API for a cancelled job, or the
reaper for one that waited too long.
"""

import asyncio
import contextlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storage.jobs.store import JOB_ENDED

INTERVAL_S = 0.5
MAX_LINES = 10
"""The most lines that are printed at once. More ends are summed up in another line."""
_MARK = JOB_ENDED.encode()


async def report_ended_jobs(logs: Path, write: Callable[[str], bool]) -> None:
    """Report jobs that end from now on, until cancelled. `write` returns False if it cannot write a line now."""
    follower, ended = LogFollower(logs), EndedJobs()
    while True:
        await asyncio.sleep(INTERVAL_S)
        for record in await asyncio.to_thread(lambda: list(follower.ended())):
            ended.add(record)
        while (line := ended.next_line()) is not None and write(line):
            ended.drop_line()


class LogFollower:
    """Reads what is appended to the logs in a folder, also to those that appear later or are rotated."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = {log: log.stat().st_size for log in folder.glob("*.log")}

    def ended(self) -> Iterator[dict[str, Any]]:
        """Yield the log records of jobs that have ended since the last call."""
        for log in sorted(self._folder.glob("*.log")):
            with contextlib.suppress(OSError):
                for line in self._new_lines(log):
                    if _MARK in line and (record := _record(line)) is not None:
                        yield record

    def _new_lines(self, log: Path) -> list[bytes]:
        position = self._read.get(log, 0)
        with log.open("rb") as file:
            if log.stat().st_size < position:  # rotated
                position = 0
            file.seek(position)
            whole, _, rest = file.read().rpartition(b"\n")
            self._read[log] = file.tell() - len(rest)
        return whole.splitlines()


class EndedJobs:
    """Jobs whose ends are not printed yet: the lines of the first ones, and how many others there are."""

    def __init__(self) -> None:
        self._lines = deque[str]()
        self._others = Counter[str]()

    def add(self, record: dict[str, Any]) -> None:
        # What cannot be printed now is counted, so that a reader that stopped does not make this process grow.
        if len(self._lines) < MAX_LINES and not self._others:
            self._lines.append(_line(record))
        else:
            self._others[str(record.get("status"))] += 1

    def next_line(self) -> str | None:
        """Return a line for each of the first jobs, then one that counts the others, then None."""
        if self._lines:
            return self._lines[0]
        if not self._others:
            return None
        return "… and " + ", ".join(f"{count} more {status}" for status, count in sorted(self._others.items()))

    def drop_line(self) -> None:
        """Forget what `next_line` returns."""
        if self._lines:
            self._lines.popleft()
        else:
            self._others.clear()


def _line(record: dict[str, Any]) -> str:
    seconds = record.get("seconds")
    ran = "never started" if seconds is None else f"{seconds:.1f} s"
    reason = f" ({record['error_code']})" if record.get("error_code") else ""
    return f"job {record.get('job_id')}  {record.get('workflow')}  {record.get('status')}{reason}  {ran}"


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None  # the output of a library
    return record if isinstance(record, dict) and record.get("message") == JOB_ENDED else None
