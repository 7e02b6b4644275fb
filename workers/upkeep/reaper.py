"""The reaper: each sweep completes what a dead process left undone.

A sweep is idempotent, and any number of sweeps may overlap: the records decide what it does, and conditional writes
commit it. On a quiet bucket it costs three LISTs, however many jobs have finished.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from storage.errors import StorageError

logger = logging.getLogger(__name__)


class Duty(Protocol):
    """One task of the reaper: the timers or the backlog."""

    async def sweep(self) -> Sequence[str]:
        """Return the actions taken, one word each."""
        ...


class Reaper:
    def __init__(self, *duties: Duty) -> None:
        self._duties = duties

    async def sweep(self) -> Counter[str]:
        """Run each duty once; the failure of one does not keep the others from running."""
        done: Counter[str] = Counter()
        for duty in self._duties:
            try:
                done.update(await duty.sweep())
            except StorageError as error:
                logger.warning("a part of the sweep failed, the next sweep will do its work: %s", error)
            except Exception:  # a defect in one duty must not leave the jobs of the others without recovery
                logger.exception("a part of the sweep failed")
        if done:
            logger.info("swept", extra=dict(done))
        return done
