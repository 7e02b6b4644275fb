"""Processor time by process, which depends on the machine but hardly on its other load."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import psutil


def cpu_seconds(processes: Mapping[str, int]) -> dict[str, float]:
    """Return the user and system time of each process and its children, except children that have their own name."""
    named = set(processes.values())
    return {name: sum(map(_seconds, _family(pid, named - {pid}))) for name, pid in processes.items()}


def cpu_ms_each(before: Mapping[str, float], after: Mapping[str, float], jobs: int) -> dict[str, float]:
    return {name: 1000 * (after[name] - before[name]) / jobs for name in before}


def _family(pid: int, others: AbstractSet[int]) -> list[psutil.Process]:
    process = psutil.Process(pid)
    children = [child for child in process.children() if child.pid not in others]
    return [process, *(member for child in children for member in _family(child.pid, others))]


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
