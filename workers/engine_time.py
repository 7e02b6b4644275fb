"""Where time goes: that of a worker's engine since it first was ready, and that of one attempt."""

import asyncio
from collections.abc import Callable


class EngineTime:
    """How long the engine computed and how long it waited, in seconds of `clock`. It runs one prompt at a time."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or asyncio.get_running_loop().time
        self._computed_s = 0.0
        self._idle_s = 0.0
        self._since = self._clock()
        self._is_computing = False

    @property
    def computed_s(self) -> float:
        return self._computed_s + (self._clock() - self._since if self._is_computing else 0.0)

    @property
    def idle_s(self) -> float:
        return self._idle_s + (0.0 if self._is_computing else self._clock() - self._since)

    def begin(self) -> float:
        """Note that a prompt begins; return the seconds that the engine has waited for it."""
        now = self._clock()
        idle_s = now - self._since
        self._idle_s += idle_s
        self._since, self._is_computing = now, True
        return idle_s

    def end(self) -> None:
        """Note that the prompt has ended."""
        now = self._clock()
        self._computed_s += now - self._since
        self._since, self._is_computing = now, False


class Phases:
    """The seconds of the phases of an attempt, which follow each other."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or asyncio.get_running_loop().time
        self._since = self._clock()
        self._seconds: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """End a phase that began where the one before ended. One that is ended twice is continued."""
        now = self._clock()
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._since
        self._since = now

    def seconds(self, phase: str) -> float:
        return round(self._seconds.get(phase, 0.0), 3)
