"""The resources that work takes in its process, and parts of a bench as separate processes, measured separately."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import psutil

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024


class PeakMemory:
    """The largest RSS in bytes of a process, by default this one, while the context is open."""

    def __init__(self, pid: int | None = None) -> None:
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self.start = self.peak = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            try:
                self.peak = max(self.peak, self._process.memory_info().rss)
            except psutil.NoSuchProcess:
                return

    @property
    def growth_mib(self) -> float:
        return (self.peak - self.start) / MIB


@dataclass(slots=True)
class Spent:
    """Wall seconds, CPU seconds of all threads, and growth of the peak RSS in MiB."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    growth_mib: float = 0.0


@contextmanager
def spending() -> Iterator[Spent]:
    """Measure a context; the result is complete when the context has ended."""
    spent = Spent()
    with PeakMemory() as memory:
        began, cpu_began = time.perf_counter(), time.process_time()
        yield spent
        spent.seconds, spent.cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    spent.growth_mib = memory.growth_mib


def report(spent: Spent, **more: Any) -> None:
    """Write one line of JSON to standard output for the parent process."""
    sys.stdout.write(json.dumps({"spent": asdict(spent), **more}) + "\n")
    sys.stdout.flush()


@dataclass(slots=True)
class Part:
    """A module of this folder that runs as a process. `reported` is the newest line that it wrote."""

    reported: dict[str, Any]
    process: "subprocess.Popen[str]"

    @property
    def gpu_time(self) -> Spent:
        return Spent(**self.reported["spent"])

    def ask(self, line: str) -> Spent:
        """Send a line to the process and wait for its report."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        self.reported = json.loads(self.process.stdout.readline())
        return self.gpu_time


@contextmanager
def running(module: str, *arguments: str) -> Iterator[Part]:
    """Run the part from its first report until the context ends, which ends its standard input."""
    command = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        part = Part(json.loads(process.stdout.readline()), process)
        yield part
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, command
    for line in rest.splitlines():
        part.reported = json.loads(line)


def finished(module: str, *arguments: str) -> Part:
    with running(module, *arguments) as part:
        return part
