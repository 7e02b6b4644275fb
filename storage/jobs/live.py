"""`LiveBoard`: the newest preview of a running job, from its worker to the streams of the API. A preview may be lost.

Nothing depends on it: statuses, progress and outputs come from job.json. A worker writes previews only while the job's
record says that it is watched (`JobRecord.watched_until`), so a job that no client watches costs no request.
"""

from typing import Protocol

from pydantic import ValidationError

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.bucket.records import Model
from storage.errors import ObjectNotFound
from storage.signal import Signal, live_topic

MAX_FRAME_BYTES = 128 * 1024
"""The largest stored preview. ComfyUI's have at most 512 pixels a side, which is 2 to 60 KB."""


class PreviewFrame(Model):
    """A preview of a node. Later ones of an attempt have a higher `number`."""

    number: int
    node_id: str | None
    content_type: str = "image/jpeg"
    data_base64: str


class LiveBoard(Protocol):
    async def put(self, tenant: str, job_id: str, attempt: int, frame: PreviewFrame) -> None:
        """Replace the attempt's preview. One above `MAX_FRAME_BYTES` is dropped."""
        ...

    async def latest(self, tenant: str, job_id: str, attempt: int) -> PreviewFrame | None:
        """Return the newest preview of the attempt, None if there is none."""
        ...

    async def clear(self, tenant: str, job_id: str, attempt: int) -> None:
        """Remove the attempt's preview."""
        ...


class BucketLiveBoard:
    """A live board in the bucket. A preview lies below its job, and is removed with it at the latest."""

    def __init__(self, objects: ObjectStore, signal: Signal) -> None:
        self._objects = objects
        self._signal = signal

    async def put(self, tenant: str, job_id: str, attempt: int, frame: PreviewFrame) -> None:
        body = frame.model_dump_json().encode()
        if len(body) > MAX_FRAME_BYTES:
            return
        await self._objects.put(keys.live(tenant, job_id, attempt), body)
        self._signal.ring(live_topic(tenant, job_id))

    async def latest(self, tenant: str, job_id: str, attempt: int) -> PreviewFrame | None:
        try:
            stored = await self._objects.get(keys.live(tenant, job_id, attempt))
            return PreviewFrame.model_validate_json(stored.body)
        except (ObjectNotFound, ValidationError):  # a tombstone's job, or another version's frame
            return None

    async def clear(self, tenant: str, job_id: str, attempt: int) -> None:
        await self._objects.delete(keys.live(tenant, job_id, attempt))
