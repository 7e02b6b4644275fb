"""Publishes the newest preview of a running attempt while its job is watched."""

import asyncio
import base64
import logging
from collections.abc import Callable

from storage.clock import Clock
from storage.errors import StorageError
from storage.jobs.live import MAX_FRAME_BYTES, LiveBoard, PreviewFrame
from storage.jobs.record import JobRecord
from workflows.messages import Message, Preview

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
"""The shortest time between two previews in the bucket."""


class LivePreviews:
    """Keeps the newest preview only. `record` returns the newest known record, which says if the job is watched."""

    def __init__(
        self, board: LiveBoard, clock: Clock, record: Callable[[], JobRecord], *, interval_s: float = INTERVAL_S
    ) -> None:
        self._board, self._clock, self._record = board, clock, record
        self._interval_s = interval_s
        self._newest: tuple[str | None, bytes] | None = None
        self._number = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def notice(self, message: Message, node_id: str | None) -> None:
        """Keep the preview of a message. `node_id` is the current node, for previews that name none."""
        # PNG previews are left out: they are large, and SaveImageWebsocket sends its results as such.
        # The board drops one that is too large, whose base64 and JSON would take 170 MB of a frame of 32 MiB.
        if isinstance(message, Preview) and message.image_type == "jpeg" and len(message.data) <= MAX_FRAME_BYTES:
            self._newest = (message.node_id or node_id, message.data)

    async def stop(self) -> None:
        """Stop, and remove what was published: the outputs replace it."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if self._number:
            record = self._record()
            try:
                await self._board.clear(record.tenant, record.job_id, record.attempt)
            except StorageError as error:  # it is removed with the job
                logger.info("the preview of job %s could not be removed: %s", record.job_id, error)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            record = self._record()
            if self._newest is None or not record.is_watched(self._clock.now()):
                continue
            (node_id, data), self._newest = self._newest, None
            self._number += 1
            text = base64.b64encode(data).decode()
            frame = PreviewFrame(number=self._number, node_id=node_id, data_base64=text)
            try:
                await self._board.put(record.tenant, record.job_id, record.attempt, frame)
            except StorageError as error:
                logger.info("a preview of job %s was lost: %s", record.job_id, error)
