"""An API with an existing object behind every id, for generated requests."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from app.comfy_v2.routes import OPERATIONS
from app.config import ApiConfig
from app.openapi import Group, document
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock, SystemClock
from tests.support.api_server import BLUE, KEY, PNG, Api, running_api
from tests.support.post import Post
from tests.support.workbench import workbench
from workers.webhooks.post import Answer

DOCUMENTS = {
    "v1": json.loads((Path(__file__).parents[2] / "docs/reference/openapi.json").read_text()),
    "comfy_v2": document((Group("Comfy API v2", "", "how-to/comfy-sdk", OPERATIONS),)),
}
"""The published document, and one of the operations of Comfy API v2, whose refusals are not documented."""
FINISHED = 6
GIVEN_UP = Answer(415, 5)
"""An answer that makes an event a dead letter at once."""


@dataclass(frozen=True, slots=True)
class World:
    """`known` maps path parameters to existing values. All its jobs and batches have ended, so that no request
    waits.
    """

    url: str
    known: dict[str, tuple[str, ...]]


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    clock = ManualClock(SystemClock().now())
    objects = MemoryObjectStore(clock)
    config = ApiConfig(
        api_key=KEY, webhook_test_wait_s=0.01, cancel_wait_s=0.01, max_nodes=200, max_wait_s=1, max_stream_s=0.05
    )
    async with workbench(folder, objects) as bench, running_api(objects, clock, config) as api:
        jobs = [(await bench.run(BLUE)).job_id for _ in range(FINISHED)]
        post = Post(objects, clock)
        post.receiver.answers = [GIVEN_UP] * FINISHED
        announced = [(await post.completed("completed")).job_id for _ in range(FINISHED)]
        await post.send()
        yield World(
            url=str(api.client.base_url),
            known={
                "job_id": (*jobs, *announced),
                "event_id": tuple(f"evt_{job_id}_000001" for job_id in announced),
                "batch_id": (await _batch(api),),
                "asset_id": (await _asset(api),),
                "hash": (f"blake3:{blake3(PNG).hexdigest()}",),
                "class_type": ("EmptyImage", "LoadImage"),
                "name": ("still", "sdxl", "wan22"),
                "number": ("0", "1"),
                "type": ("comfyui.job.completed.v1",),
            },
        )


async def _asset(api: Api) -> str:
    fields = {"content_type": "image/png", "file_path": "cat.png"}
    answer = await api.client.post("/api/v2/assets", data=fields, files={"file": PNG})
    asset_id: str = answer.json()["id"]
    return asset_id


async def _batch(api: Api) -> str:
    document = {"workflow": BLUE, "input_sets": [[{"node": "1", "field": "color", "value": 1}]]}
    answer = await api.client.post("/v1/batches", json=document)
    batch_id: str = answer.json()["batch_id"]
    await api.client.delete(f"/v1/batches/{batch_id}")
    return batch_id
