"""A peer: Salad's comfyui-api, which stores outputs in S3 before it answers. It is built elsewhere from source.

COMFYUI_API_DIR is a checkout of github.com/SaladTechnologies/comfyui-api after `npm ci && npm run build`.
"""

import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from infra.local.s3_server import free_port
from storage.bucket.s3 import S3ObjectStore
from tests.bench.overhead.client import get_picture, http_client, post_json
from tests.bench.overhead.engine import running_engine
from tests.bench.overhead.graphs import fresh_graph
from tests.bench.overhead.load import Job
from tests.bench.overhead.peer import peer_process
from tests.bench.overhead.receiver import Receiver, receiving
from tests.bench.server import ACCESS_KEY, BUCKET, SECRET_KEY, bench_config, bench_server

PREFIX = "comfyui-api/"


class ComfyuiApiClient:
    """A client; `objects` signs the download URLs, because the peer returns keys only."""

    def __init__(self, url: str, session: aiohttp.ClientSession, objects: S3ObjectStore, receiver: Receiver) -> None:
        self._url = url
        self._session = session
        self._objects = objects
        self._receiver = receiver

    async def to_answered(self) -> str:
        """Return the S3 key of the output; the request is answered once it is stored."""
        answer = await self._submit({})
        (output,) = answer["images"]
        return str(output).removeprefix(f"s3://{BUCKET}/")

    async def to_webhook(self) -> None:
        answer = await self._submit({"webhook_v2": self._receiver.url})
        await self._receiver.arrived.of(answer["id"])

    async def to_bytes(self) -> None:
        key = await self.to_answered()
        signed = self._objects.presign_get(key, expires_s=60, filename="output.png", content_type="image/png")
        await get_picture(self._session, signed.url)

    async def _submit(self, options: dict[str, Any]) -> Any:
        body = {"prompt": fresh_graph(), "s3": {"bucket": BUCKET, "prefix": PREFIX}, **options}
        return await post_json(self._session, f"{self._url}/prompt", body)


@asynccontextmanager
async def comfyui_api() -> AsyncIterator[dict[str, Job]]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-")))
        endpoint_url = await stack.enter_async_context(bench_server())
        engine_url, engine_folder = await stack.enter_async_context(running_engine())
        session = await stack.enter_async_context(http_client())
        receiver = await stack.enter_async_context(receiving(lambda event: str(event["id"])))
        objects = S3ObjectStore(bench_config(endpoint_url))
        stack.push_async_callback(objects.close)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        environment = _environment(folder, port, endpoint_url, engine_url, engine_folder)
        program = ["node", str(_directory() / "dist" / "src" / "index.js")]
        await stack.enter_async_context(
            peer_process(program, folder, environment, ready=f"{url}/ready", session=session)
        )
        client = ComfyuiApiClient(url, session, objects, receiver)
        yield {
            "answered, output stored": _without_result(client),
            "webhook received": client.to_webhook,
            "output downloaded": client.to_bytes,
        }


def _environment(folder: Path, port: int, endpoint_url: str, engine_url: str, engine_folder: Path) -> dict[str, str]:
    """Return its environment. It starts its ComfyUI by CMD, which is a program that only waits, because the engine
    runs already."""
    engine = urlsplit(engine_url)
    return {
        "CMD": "sleep infinity",
        "DIRECT_ADDRESS": engine.hostname or "",
        "COMFYUI_PORT_HOST": str(engine.port),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "COMFY_HOME": str(folder),
        "MODEL_DIR": str(_made(folder / "models")),
        "WORKFLOW_DIR": str(_made(folder / "workflows")),
        "CACHE_DIR": str(_made(folder / "cache")),
        "INPUT_DIR": str(engine_folder / "input"),
        "OUTPUT_DIR": str(engine_folder / "output"),
        "LOG_LEVEL": "warn",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": endpoint_url,
    }


def version() -> str | None:
    """Return the version; None if it is not built, or if its engine's output folder is on another machine."""
    if not (_directory() / "dist" / "src" / "index.js").is_file() or os.environ.get("COMFYUI_URL"):
        return None
    return str(json.loads((_directory() / "package.json").read_text())["version"])


def _directory() -> Path:
    return Path(os.environ.get("COMFYUI_API_DIR") or os.devnull)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _without_result(client: ComfyuiApiClient) -> Job:
    async def job() -> None:
        await client.to_answered()

    return job
