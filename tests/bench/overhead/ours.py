"""This API as a whole: `comfyui-modal up` with its S3 server, API, one worker and deliverer."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.bench.overhead.client import get_picture, http_client
from tests.bench.overhead.engine import chosen, up_environment
from tests.bench.overhead.graphs import fresh_graph
from tests.bench.overhead.load import Job
from tests.bench.overhead.receiver import Receiver, receiving
from tests.support.up import up
from workers.comfy.http import ComfyHttp


class Ours:
    """`engine_url` is the URL of the worker's engine, and `processes` maps the names of all processes to their pids."""

    def __init__(self, connection: dict[str, Any], session: aiohttp.ClientSession, receiver: Receiver) -> None:
        self.engine_url: str = connection["comfyui_url"]
        self.processes: dict[str, int] = connection["processes"]
        self._url: str = connection["api_url"]
        self._headers = {"authorization": f"Bearer {connection['api_key']}"}
        self._session = session
        self._receiver = receiver

    async def engine_history(self) -> Any:
        """Return ComfyUI's history of every job by prompt id."""
        http = ComfyHttp(self.engine_url)
        try:
            return await http.get_json("/history")
        finally:
            await http.close()

    async def accepted(self, **options: Any) -> str:
        """Submit a job and return its id from the 202."""
        async with self._session.post(
            f"{self._url}/v1/jobs", json={"workflow": fresh_graph(), **options}, headers=self._headers
        ) as answer:
            assert answer.status == 202, (answer.status, await answer.text())
            job_id: str = (await answer.json())["job_id"]
            return job_id

    async def seen(self, job_id: str) -> Any:
        """Return the job once a long poll shows that it is completed."""
        job: dict[str, Any] = {}
        while job.get("status") != "completed":
            async with self._session.get(f"{self._url}/v1/jobs/{job_id}?wait=20", headers=self._headers) as answer:
                assert answer.status == 200, (answer.status, await answer.text())
                job = await answer.json()
            assert job["status"] != "failed", job
        return job

    async def to_completed(self) -> None:
        await self.seen(await self.accepted())

    async def to_bytes(self) -> None:
        job = await self.seen(await self.accepted())
        await get_picture(self._session, job["outputs"][0]["url"])

    async def to_webhook(self) -> None:
        job_id = await self.accepted(webhook_url=self._receiver.url, webhook_events=["completed"])
        await self._receiver.arrived.of(job_id)


@asynccontextmanager
async def ours() -> AsyncIterator[Ours]:
    environment = up_environment(chosen().settings)
    with (
        tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder,
        up(Path(folder) / "data", environment=environment) as running,
    ):
        async with http_client() as session, receiving(lambda event: str(event["subject"])) as receiver:
            yield Ours(running.connection, session, receiver)


def ends_of(system: Ours) -> dict[str, Job]:
    return {
        "completed seen by a long poll": system.to_completed,
        "webhook received": system.to_webhook,
        "output downloaded": system.to_bytes,
    }
