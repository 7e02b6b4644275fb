"""The faults and their rates. All are drawn from one seeded source, so that a seed determines the course of events."""

import asyncio
import random
from dataclasses import dataclass

from storage.errors import StorageUnavailable


@dataclass(frozen=True, slots=True)
class Rates:
    """The probability of each fault per call; `pause_s` is the maximum length of a long pause, `fetch_s` that of
    fetching an output."""

    error_before: float = 0.015
    error_after: float = 0.015
    death_before: float = 0.004
    death_after: float = 0.004
    long_pause: float = 0.015
    pause_s: float = 25.0
    node_fails: float = 0.06
    engine_dies: float = 0.05
    engine_hangs: float = 0.05
    interrupt_lost: float = 0.2
    client_gives_up: float = 0.3
    receiver_down: float = 0.3
    receiver_hangs: float = 0.05
    answer_lost: float = 0.1
    fetch_s: float = 0.5


NONE = Rates(*(0 for _ in range(15)))


class ProcessDied(BaseException):
    """kill -9, raised at the next call of the process. `except Exception` does not catch it, and clean-up has no
    effect."""


class Faults:
    """Draws the faults; after `stop` none occurs, so that the system can settle."""

    def __init__(self, seed: int, rates: Rates) -> None:
        self.chance = random.Random(seed)  # noqa: S311  the course of events must be repeatable
        self._given = self._rates = rates

    @property
    def rates(self) -> Rates:
        return self._rates

    def stop(self) -> None:
        self._rates = NONE

    def resume(self) -> None:
        self._rates = self._given

    def happens(self, rate: float) -> bool:
        return rate > 0 and self.chance.random() < rate

    async def delay(self) -> None:
        """Delay a call, sometimes for very long, which varies the order of events."""
        if self.happens(self._rates.long_pause):
            await asyncio.sleep(self.chance.uniform(1, self._rates.pause_s))
        else:
            await asyncio.sleep(self.chance.expovariate(200))

    def maybe_fail(self, rate: float) -> None:
        if self.happens(rate):
            raise StorageUnavailable("simulated")
