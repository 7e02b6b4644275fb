"""The reaper: whatever a process that died has left undone is found and done, by whichever sweep comes next.

A sweep is idempotent, and any number may overlap: what it does is decided by the records and committed by
conditional writes. On a quiet bucket it costs three LISTs, however many jobs have finished.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from storage.errors import StorageError

logger = logging.getLogger(__name__)


class Duty(Protocol):
    """One thing that the reaper looks after: recovery of running jobs, the backlog, deadlines."""

    async def sweep(self) -> Sequence[str]:
        """What was done, one word each."""
        ...


class Reaper:
    def __init__(self, *duties: Duty) -> None:
        self._duties = duties

    async def sweep(self) -> Counter[str]:
        """Each duty once; one that fails at the bucket does not keep the others from theirs."""
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
