"""Processor time by process: it depends on the machine, but hardly on what else runs there."""

from collections.abc import Mapping

import psutil


def cpu_seconds(processes: Mapping[str, int]) -> dict[str, float]:
    """User and system time so far of each, and of all that it started."""
    return {name: sum(map(_seconds, _family(pid))) for name, pid in processes.items()}


def cpu_ms_each(before: Mapping[str, float], after: Mapping[str, float], jobs: int) -> dict[str, float]:
    return {name: 1000 * (after[name] - before[name]) / jobs for name in before}


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
