"""What goes wrong, and how often. Drawn from one seeded source, so that a seed gives one course of events."""

import asyncio
import random
from dataclasses import dataclass

from storage.errors import StorageUnavailable


@dataclass(frozen=True, slots=True)
class Rates:
    """Chances of each fault at each call; `pause_s` is how long a long pause lasts at most."""

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


NONE = Rates(*(0 for _ in range(14)))


class ProcessDied(BaseException):
    """kill -9: raised at whatever the process does next. No `except Exception` catches it, no clean-up has effect."""


class Faults:
    """`stop` lets things settle: from then on nothing goes wrong."""

    def __init__(self, seed: int, rates: Rates) -> None:
        self.chance = random.Random(seed)  # noqa: S311  chance that can be repeated is what is wanted
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
        """Every call takes a moment, now and then a very long one: this is what mixes the order of things."""
        if self.happens(self._rates.long_pause):
            await asyncio.sleep(self.chance.uniform(1, self._rates.pause_s))
        else:
            await asyncio.sleep(self.chance.expovariate(200))

    def maybe_fail(self, rate: float) -> None:
        if self.happens(rate):
            raise StorageUnavailable("simulated")
