"""Random kill -9 for the processes of a running `up`, and the processes that remain at the end."""

import contextlib
import random
from collections import Counter
from pathlib import Path

import httpx
import psutil

from tests.support.plain_http import NO_TLS
from tests.support.up import Up

KINDS = ("worker", "engine", "api", "reaper", "s3")
GUARDED = ("engine", "s3")
"""Kinds that consist of two processes, a guard and the guarded process; either may be killed."""
HEALTH_S = 0.2
"""The time in which a running API must answer its health check."""


class Killer:
    """Kills processes, and counts them by kind in `kills`."""

    def __init__(self, running: Up, chance: random.Random, kills: Counter[str]) -> None:
        self._running = running
        self._chance = chance
        self._kills = kills

    def kill_one(self) -> None:
        """Kill a running process of a random kind among those killed least; nothing if all are restarting.

        The API counts as running once it answers: on a slow machine it would otherwise be killed each time before its
        first answer, and no job would be submitted meanwhile.
        """
        alive = self._alive()
        if not any(alive.values()):
            return
        fewest = min(self._kills[kind] for kind in KINDS if alive[kind])
        kind = self._chance.choice([kind for kind in KINDS if alive[kind] and self._kills[kind] <= fewest + 1])
        victim = self._chance.choice(alive[kind])
        with contextlib.suppress(psutil.NoSuchProcess):
            if kind in GUARDED:
                victim = self._chance.choice([victim, *victim.children()])
            victim.kill()
            self._kills[kind] += 1

    def kill_workers(self) -> None:
        """Kill all running workers."""
        for worker in self._alive()["worker"]:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
                self._kills["worker"] += 1

    def _alive(self) -> dict[str, list[psutil.Process]]:
        """Return the living processes that connection.json names; a pid of it may belong to a process that has
        ended."""
        family = {one.pid: one for one in psutil.Process(self._running.process.pid).children(recursive=True)}
        alive: dict[str, list[psutil.Process]] = {kind: [] for kind in KINDS}
        for name, pid in self._running.connection["processes"].items():
            kind = name.partition("-")[0]
            if kind in alive and pid in family:
                alive[kind].append(family[pid])
        if not self._api_answers():
            alive["api"] = []
        return alive

    def _api_answers(self) -> bool:
        try:
            return httpx.get(
                self._running.connection["api_url"] + "/health", timeout=HEALTH_S, verify=NO_TLS
            ).is_success
        except httpx.TransportError:
            return False


def processes_on(data: Path) -> list[psutil.Process]:
    """Return the processes whose command line or environment names the data folder, orphans included."""
    return [process for process in psutil.process_iter() if _names(process, str(data))]


def _names(process: psutil.Process, text: str) -> bool:
    try:
        return any(text in word for word in (*process.cmdline(), *process.environ().values()))
    except psutil.Error:  # it has ended, or belongs to another user
        return False
