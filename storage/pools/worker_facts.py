"""The machine and engine of the pool's newest worker, published by the worker and read by GET /v1/system.

There is one object per pool; the last writer wins, and the worker may have ended. An object that this version cannot
read counts as absent; the next worker replaces it.
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
    """The attention that ComfyUI was started with, and why. `backend` and `flag` are None if the user chose it.

    `capability` is the GPU's architecture, such as "8.9"; times are of the same work, in milliseconds; `cosine` is the
    similarity of SageAttention's results to torch's. Values that were not measured are None.
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
    """`gpu` is the driver's name of the GPU, None without one. `engine` is `comfyui` or `lite`."""

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
