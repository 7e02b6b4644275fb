"""The machine and engine of the pool's newest worker, read by GET /v1/system, and the attention that workers chose.

There is one object of each kind per pool; the last writer wins, and the worker may have ended. An object that this
version cannot read counts as absent; the next worker replaces it.
"""

import logging
from datetime import datetime
from typing import Literal

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.bucket.records import EngineText, Model, read_as
from storage.errors import ObjectNotFound, RecordUnreadable

logger = logging.getLogger(__name__)

MOST_CHOICES = 16
"""Choices of attention that are kept per pool, enough for a few GPUs, drivers and images."""


class AttentionChoice(Model):
    """The attention that ComfyUI was started with, and why. `backend` and `flag` are None if the user chose it.

    `capability` is the GPU's architecture, such as "8.9"; times are of the same work, in milliseconds; `cosine` is the
    similarity of SageAttention's results to torch's. Values that were not measured are None.
    """

    backend: Literal["sage", "sdpa"] | None
    flag: EngineText | None = None
    reason: EngineText
    gpu: EngineText | None = None
    gpu_memory_bytes: int | None = None
    capability: EngineText | None = None
    sageattention: EngineText | None = None
    cosine: float | None = None
    sage_ms: float | None = None
    sdpa_ms: float | None = None


class WorkerFacts(Model):
    """`gpu` is the driver's name of the GPU, None without one. `engine` is `comfyui` or `lite`."""

    worker: str
    started_at: datetime
    engine: EngineText
    comfyui_version: EngineText | None = None
    python_version: EngineText | None = None
    torch_version: EngineText | None = None
    gpu: EngineText | None = None
    gpu_memory_bytes: int | None = None
    attention: AttentionChoice
    isolation: str | None = None
    """The sandbox that isolates the engine from its worker; None if the worker was older."""


class WorkerFactsStore:
    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def publish(self, pool: str, facts: WorkerFacts) -> None:
        body = facts.model_dump_json().encode()
        await self._objects.put(keys.worker_facts(pool), body, content_type="application/json")

    async def read(self, pool: str) -> WorkerFacts | None:
        """Return the newest worker's facts; None if no worker of this pool has published any."""
        key = keys.worker_facts(pool)
        try:
            return read_as(WorkerFacts, key, (await self._objects.get(key)).body)
        except ObjectNotFound:
            return None
        except RecordUnreadable as error:
            logger.warning("what a worker runs on is not known: %s", error)
            return None


class _Choices(Model):
    """The choices by the image, GPU and driver that they are valid for, the oldest first."""

    choices: dict[str, AttentionChoice]


class AttentionStore:
    """Earlier choices of attention, so that a worker need not measure it at every start.

    A choice is valid for one image, GPU and driver. A missing or lost choice only costs another measurement.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def recall(self, pool: str, valid_for: str) -> AttentionChoice | None:
        """Return the earlier choice, or None, for one GET."""
        return (await self._read(pool)).choices.get(valid_for)

    async def remember(self, pool: str, valid_for: str, choice: AttentionChoice) -> None:
        others = {key: one for key, one in (await self._read(pool)).choices.items() if key != valid_for}
        newest = dict([*others.items(), (valid_for, choice)][-MOST_CHOICES:])
        await self._objects.put(keys.attention(pool), _Choices(choices=newest).model_dump_json().encode())

    async def _read(self, pool: str) -> _Choices:
        key = keys.attention(pool)
        try:
            return read_as(_Choices, key, (await self._objects.get(key)).body)
        except ObjectNotFound:
            return _Choices(choices={})
        except RecordUnreadable as error:
            logger.warning("earlier choices of the attention are not known: %s", error)
            return _Choices(choices={})
