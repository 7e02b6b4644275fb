"""What the worker of a pool that started last runs on: published by it, read by GET /v1/system. A hint.

One object a pool; the last writer wins, and the worker may be gone by now. A hint that this version cannot read counts
as absent: the next worker writes it anew.
"""

import logging
from datetime import datetime
from typing import Literal

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.errors import ObjectNotFound, RecordUnreadable
from storage.model import Model, read_as

logger = logging.getLogger(__name__)


class AttentionChoice(Model):
    """Which attention ComfyUI was started with, and why. `backend` and `flag` are None where it is not ours to choose.

    `capability` is the GPU's architecture as "8.9"; times are of the same work, in milliseconds; `cosine` is the
    similarity of SageAttention's results to those of torch. All of them None where they were not measured.
    """

    backend: Literal["sage", "sdpa"] | None
    flag: str | None = None
    reason: str
    gpu: str | None = None
    gpu_memory_bytes: int | None = None
    capability: str | None = None
    sageattention: str | None = None
    cosine: float | None = None
    sage_ms: float | None = None
    sdpa_ms: float | None = None


class WorkerFacts(Model):
    """`gpu` is the driver's name of it; None without one. `engine` is `comfyui` or `lite`."""

    worker: str
    started_at: datetime
    engine: str
    comfyui_version: str | None = None
    python_version: str | None = None
    torch_version: str | None = None
    gpu: str | None = None
    gpu_memory_bytes: int | None = None
    attention: AttentionChoice
    isolation: str | None = None
    """What keeps the engine apart from its worker; None if that worker was older."""


class WorkerFactsStore:
    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def publish(self, pool: str, facts: WorkerFacts) -> None:
        body = facts.model_dump_json().encode()
        await self._objects.put(keys.worker_facts(pool), body, content_type="application/json")

    async def read(self, pool: str) -> WorkerFacts | None:
        """None if no worker of this pool has told yet."""
        key = keys.worker_facts(pool)
        try:
            return read_as(WorkerFacts, key, (await self._objects.get(key)).body)
        except ObjectNotFound:
            return None
        except RecordUnreadable as error:
            logger.warning("what a worker runs on is not known: %s", error)
            return None
