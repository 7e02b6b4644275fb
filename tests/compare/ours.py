"""This project's side: the HTTP API over an in-memory store, and workers for the jobs that it accepts."""

import asyncio
import base64
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from app.asgi import create_app
from infra.compose.api import api_services
from infra.compose.stores import make_stores
from infra.compose.worker import worker_loop
from infra.settings import Settings
from storage.bucket.memory import MemoryObjectStore
from storage.clock import SystemClock
from storage.jobs.record import JobRecord
from storage.launcher import NoLauncher
from storage.signal import MemorySignal
from tests.compare.engine import ANSWER_S, BODY, CheckResult, errors_of
from tests.compare.graphs import NamedGraph
from tests.support.workbench import serve_one
from workers.attention import NOT_OURS
from workers.comfy.engine import ANY_SIZE, FileRef, History, Prompt, PromptQueue
from workers.comfy.host import EngineHost
from workers.errors import OutputFailed, PromptRefused
from workers.loop import WorkerLoop
from workflows.messages import Message
from workflows.policy import GraphTrust

KEY = "compare"
RECORDED = "recorded, not run"


class RecordingEngine:
    """A `ComfyEngine` with another engine's declarations, which stores the last prompt instead of running it."""

    def __init__(self, object_info: dict[str, Any], system_stats: dict[str, Any]) -> None:
        self.sent: Prompt | None = None
        self.showing: set[str] = set()
        self._object_info, self._system_stats = object_info, system_stats

    async def submit(self, prompt: Prompt) -> dict[str, Any]:
        self.sent = prompt
        raise PromptRefused(RECORDED)

    @asynccontextmanager
    async def connect(self, client_id: str) -> AsyncIterator[AsyncIterator[tuple[Message, int]]]:
        yield _Silence()

    async def interrupt(self, prompt_id: str) -> None: ...

    async def history(self, prompt_id: str) -> History | None:
        return None

    async def forget(self, prompt_id: str) -> None: ...

    async def queue(self) -> PromptQueue:
        return PromptQueue()

    async def declarations(self) -> dict[str, Any]:
        return self._object_info

    async def system_stats(self) -> dict[str, Any]:
        return self._system_stats

    @property
    def files(self) -> "RecordingEngine":
        return self

    async def clean(self) -> None: ...

    async def stage(self, name: str, path: Path) -> None: ...

    async def find(self, names: Sequence[str]) -> dict[str, FileRef]:
        return {}

    def private_folder(self) -> Path:
        return Path(tempfile.mkdtemp())  # the preparation of a job's inputs removes it

    def free_bytes(self) -> int:
        return sys.maxsize  # nothing is written, and a worker on a full disk claims no job

    async def fetch(self, ref: FileRef, into: Path, *, max_bytes: int = ANY_SIZE) -> Path:
        raise OutputFailed(f"{ref.filename} was never made")


class _Silence:
    """A socket without messages."""

    def __aiter__(self) -> AsyncIterator[tuple[Message, int]]:
        return self

    async def __anext__(self) -> tuple[Message, int]:
        await asyncio.Event().wait()
        raise StopAsyncIteration


class RecordingHost:
    """An `EngineHost` with a `RecordingEngine` and the log and paths of the real one."""

    def __init__(self, real: EngineHost, object_info: dict[str, Any], system_stats: dict[str, Any]) -> None:
        self._object_info = object_info
        self.engine = RecordingEngine(object_info, system_stats)
        self.url, self.log, self.paths, self.attention, self.pid = "", real.log, real.paths, NOT_OURS, None
        self.isolation = real.isolation
        self.start_phases = real.start_phases

    def outputs(self, graph: NamedGraph) -> frozenset[str]:
        """Return the output nodes of a graph, valid or not."""
        return frozenset(
            node_id
            for node_id, (class_type, _) in graph.nodes().items()
            if self._object_info.get(class_type, {}).get("output_node")
        )

    async def start(self) -> None: ...

    async def restart(self) -> None: ...

    async def stop(self) -> None: ...

    def is_alive(self) -> bool:
        return True


class Ours:
    """The API at one trust level. `check` leaves an accepted job in the queue for any worker."""

    def __init__(self, trust: GraphTrust) -> None:
        clock, signal = SystemClock(), MemorySignal()
        self.settings = Settings(bucket="compare", api_key=KEY, graphs=trust, max_media=1_000, max_attempts=1)
        self.objects = MemoryObjectStore(clock)
        self.stores = make_stores(self.settings, self.objects, signal, clock)
        app = create_app(api_services(self.settings, self.stores, NoLauncher()))
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://compare",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=ANSWER_S,
        )

    def worker(self, host: EngineHost) -> WorkerLoop:
        return worker_loop(self.settings, self.stores, host)

    async def check(self, graph: NamedGraph, media: Mapping[str, bytes], **options: Any) -> CheckResult:
        sources = [{"name": name, "data": base64.b64encode(body).decode()} for name, body in media.items()]
        body = json.dumps({"workflow": graph.document, "media": sources, **options})  # httpx's own encoder refuses NaN
        response = await self._client.post("/v1/jobs", content=body.encode(), headers=BODY)
        answer = response.json()
        if response.status_code == 202:
            warnings = answer.get("warnings") or {}
            without = frozenset(output for about in warnings.values() for output in about["dependent_outputs"])
            return CheckResult("accepted", errors_of(warnings), without=without)
        if response.status_code >= 500:
            return CheckResult("raised", reason=f"{response.status_code}: {response.text[:200]}")
        code = str(answer["type"]).rpartition("/")[2].rpartition(":")[2]
        return CheckResult("refused", errors_of(answer.get("node_errors")), frozenset(), answer["detail"], code)

    async def run(self, worker: WorkerLoop) -> JobRecord:
        """Run the queued job with this worker and return its record."""
        record = await serve_one(worker, self.stores)
        assert record is not None
        return record

    async def close(self) -> None:
        await self._client.aclose()
