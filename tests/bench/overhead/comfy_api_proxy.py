"""A peer: comfy-api-proxy, Comfy Org's API in front of one ComfyUI. It stores nothing: outputs stay with ComfyUI.

`make bench` installs it in a separate virtual environment from requirements/bench.txt.
"""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from infra.local.s3_server import free_port
from tests.bench.overhead.client import get_json, get_picture, http_client, post_json
from tests.bench.overhead.engine import running_engine
from tests.bench.overhead.graphs import fresh_graph
from tests.bench.overhead.load import Job
from tests.bench.overhead.peer import peer_process

PROGRAM = Path(__file__).parents[3] / ".bench" / "bin" / "comfy-api-proxy"
POLL_S = 0.05
"""The poll interval for a job whose event stream is refused with 429, because all streams are in use."""


class ProxyClient:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def to_succeeded(self) -> Any:
        """Return the job once its event stream has ended or a poll shows its end."""
        job = await post_json(self._session, f"{self._url}/api/v2/jobs", {"workflow": fresh_graph()})
        job_url = f"{self._url}/api/v2/jobs/{job['id']}"
        if not await self._streamed(f"{job_url}/events"):
            while (await get_json(self._session, job_url))["status"] in ("queued", "running"):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
        job = await get_json(self._session, job_url)
        assert job["status"] == "succeeded", job
        return job

    async def to_bytes(self) -> None:
        job = await self.to_succeeded()
        await get_picture(self._session, job["outputs"][0]["url"])

    async def _streamed(self, url: str) -> bool:
        """Return whether the stream reported the end; False if no stream is available."""
        async with self._session.get(url) as stream:
            if stream.status == 429:
                return False
            assert stream.status == 200, stream.status
            async for line in stream.content:
                if line.startswith(b"data:") and json.loads(line[5:]).get("status") == "succeeded":
                    return True
        return False


@asynccontextmanager
async def comfy_api_proxy() -> AsyncIterator[dict[str, Job]]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
        async with running_engine() as (engine_url, _), http_client() as session:
            url = f"http://127.0.0.1:{port}"
            command = [str(PROGRAM), "run", "--comfyui", engine_url, "--port", str(port), "--state-dir", folder]
            async with peer_process(command, Path(folder), {}, ready=f"{url}/api/v2/health", session=session):
                client = ProxyClient(url, session)
                yield {"succeeded seen": client.to_succeeded, "output downloaded": client.to_bytes}


def version() -> str | None:
    """Return the version, or None if it is not installed."""
    found = next((PROGRAM.parent.parent / "lib").glob("python*/site-packages/comfy_api_proxy-*.dist-info"), None)
    return None if found is None else found.name.removeprefix("comfy_api_proxy-").removesuffix(".dist-info")
