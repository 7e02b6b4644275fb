"""Keeps the next job of the queue prepared while the engine runs another one.

Nothing is claimed ahead, so no other worker is kept from a job. The prepared job is the one that a claim would have
taken, as of a look at the queue that is at most `look_again_s` old; when it was claimed by another worker or cancelled,
or when a job of higher priority has arrived, it is thrown away.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from storage.errors import StorageError
from storage.index_keys import QueueEntry
from storage.jobs.queue import Candidate, JobQueue
from storage.jobs.record import JobRecord
from storage.jobs.store import StoredJob
from storage.signal import Signal, queue_topic
from workers.errors import EngineUnavailable, WorkerDiskFull
from workers.preparation import Preparation

logger = logging.getLogger(__name__)

LOOK_PAUSE_S = 1.0
"""Shortest time between two looks once a job is prepared, since each submission rings the bell of every worker."""
LAST_LOOK_S = 3.0
"""Seconds for which a read of the next job that is in flight is awaited, because its result is needed at once."""


@dataclass(frozen=True, slots=True)
class OverlapPolicy:
    """`concluding` is the number of finished jobs whose outputs may be uploaded while the engine runs another one.

    Input files of at most `ahead_bytes` are fetched ahead, if `free_bytes` of the disk stay free.
    """

    concluding: int = 2
    ahead_bytes: int = 4 * 1024**3
    free_bytes: int = 2 * 1024**3
    look_again_s: float = 10.0

    def allows_files(self, record: JobRecord, free_bytes: int) -> bool:
        """Whether the job's input files may be fetched before the job is claimed, to a disk with this space."""
        size = sum(file.size_bytes for file in record.input_files)
        return size == 0 or (size <= self.ahead_bytes and free_bytes - size >= self.free_bytes)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that may be claimed."""

    candidate: Candidate
    preparation: Preparation


class Lookahead:
    """`prepare` begins the preparation of a job that was read."""

    def __init__(
        self,
        pool: str,
        queue: JobQueue,
        signal: Signal,
        prepare: Callable[[StoredJob], Preparation],
        *,
        look_again_s: float,
    ) -> None:
        self._pool = pool
        self._queue = queue
        self._signal = signal
        self._prepare = prepare
        self._look_again_s = look_again_s
        self._held: Prepared | None = None
        self._looked_at = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._is_reading = False

    def start(self, begin: asyncio.Event) -> None:
        """Look from `begin` on until `stop`."""
        self._watching = asyncio.create_task(self._watch(begin))

    async def stop(self) -> None:
        """Stop looking; what is prepared is kept."""
        watching, self._watching = self._watching, None
        if watching is None:
            return
        if self._is_reading:
            await asyncio.wait({watching}, timeout=LAST_LOOK_S)
        watching.cancel()
        (ended,) = await asyncio.gather(watching, return_exceptions=True)
        if isinstance(ended, Exception):  # the next job is then read when the engine is free
            logger.error("the next job was not prepared", exc_info=ended)

    async def take(self) -> Prepared | None:
        """Return the prepared job, to be claimed at once; None if there is none. Raises `StorageError`."""
        if self._held is not None and _now() - self._looked_at > self._look_again_s:
            await self._look()  # as after a restart of the engine
        held, self._held = self._held, None
        return held

    async def close(self) -> None:
        await self.stop()
        await self._drop()

    async def _watch(self, begin: asyncio.Event) -> None:
        await begin.wait()
        with self._signal.listen(queue_topic(self._pool)) as bell:
            while self._watching is not None:
                try:
                    await self._look()
                except (StorageError, EngineUnavailable, WorkerDiskFull) as error:
                    logger.debug("the next job cannot be looked for: %s", error)
                if self._watching is None:
                    return
                if self._held is not None:
                    await asyncio.sleep(LOOK_PAUSE_S)
                await bell.wait(self._look_again_s / 2)

    async def _look(self) -> None:
        """Prepare the best job of the queue unless it is prepared."""
        entries = await self._queue.look(self._pool)
        self._looked_at = _now()
        if self._held is not None:
            if _is_still_best(self._held.candidate.entry, entries):
                return
            await self._drop()
        self._is_reading = True
        try:
            candidate = await self._queue.candidate(entries)
            if candidate is not None:
                self._held = Prepared(candidate, self._prepare(candidate.stored))
        finally:
            self._is_reading = False

    async def _drop(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._queue.discard(held.candidate)
            await held.preparation.close()


def _is_still_best(held: QueueEntry, entries: list[QueueEntry]) -> bool:
    return held in entries and entries[0].priority <= held.priority


def _now() -> float:
    return asyncio.get_running_loop().time()
