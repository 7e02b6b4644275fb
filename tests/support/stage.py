"""A worker on a scripted ComfyUI, over a bucket with scripted faults."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from infra.compose.stores import make_stores
from infra.settings import Settings
from storage.bucket.memory import MemoryObjectStore
from storage.clock import SystemClock
from storage.errors import StorageUnavailable
from storage.intake.host_paths import HostPaths
from storage.jobs.record import JobRecord
from storage.jobs.store import StoredJob
from storage.signal import MemorySignal
from tests.support.records import a_job
from tests.support.scripted_comfy import Play, Script, ScriptedComfy, serving
from tests.support.workbench import quick_policy
from workers.attempt import Attempt, AttemptPolicy
from workers.comfy.engine import ANY_SIZE, FileRef
from workers.comfy.files import FolderFiles
from workers.comfy.host import EngineHost, EngineLog
from workers.comfy.http_engine import HttpEngine
from workers.errors import EngineUnavailable
from workflows.catalogue import Catalogue

GRAPH = {"1": {"class_type": "Paint", "inputs": {}}, "2": {"class_type": "SaveImageWebsocket", "inputs": {}}}
PATIENCE_S = 20


class MoodyStore(MemoryObjectStore):
    """A store whose writes may be refused or delayed."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.failures: dict[str, int] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.entered = asyncio.Event()
        self.logged = asyncio.Event()

    async def _mood(self, operation: str) -> None:
        if operation in self.held:
            self.entered.set()
            await self.held[operation].wait()
        if self.failures.get(operation, 0) > 0:
            self.failures[operation] -= 1
            raise StorageUnavailable("away")

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        await self._mood("conclude" if b'"status":"completed"' in body else "replace")
        return await super().replace(key, body, etag=etag, content_type=content_type)

    async def put(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        is_log = "/logs/" in key
        await self._mood("log" if is_log else "put")
        etag = await super().put(key, body, content_type=content_type)
        if is_log:
            self.logged.set()
        return etag

    async def upload_file(self, key: str, path: Path, *, content_type: str, size: int | None = None) -> None:
        await self._mood("upload_file")
        await super().upload_file(key, path, content_type=content_type, size=size)

    async def download_file(self, key: str, path: Path) -> None:
        await self._mood("download_file")
        await super().download_file(key, path)


class ForgetfulFiles(FolderFiles):
    """The engine is unavailable when its files are requested."""

    async def fetch(self, ref: FileRef, into: Path, *, max_bytes: int = ANY_SIZE) -> Path:
        raise EngineUnavailable("connection refused")


class BrokenFiles(FolderFiles):
    """Fetching a file raises an unexpected error."""

    async def fetch(self, ref: FileRef, into: Path, *, max_bytes: int = ANY_SIZE) -> Path:
        raise LookupError("a defect")


@dataclass(frozen=True, slots=True)
class ScriptedHost:
    """The part of an engine's host that an attempt uses."""

    engine: HttpEngine
    log: EngineLog
    paths: HostPaths = field(default_factory=HostPaths)

    @classmethod
    def of(cls, engine: HttpEngine, log: EngineLog | None = None) -> EngineHost:
        return cast(EngineHost, cls(engine, log or EngineLog(100)))


@dataclass(frozen=True, slots=True)
class Ran:
    """The job after its attempt, and whether the engine needs a restart."""

    stored: StoredJob
    engine_suspect: bool


@dataclass
class Stage:
    """A queue with one worker at a scripted engine."""

    folder: Path
    comfy: ScriptedComfy
    files: Callable[..., FolderFiles] = FolderFiles
    objects: MoodyStore = field(default_factory=MoodyStore)
    showing: set[str] = field(default_factory=set)
    """The engine's own set, kept here because each run gets a new engine, unlike the runs of a worker."""
    policy: AttemptPolicy = field(default_factory=lambda: quick_policy(interval_s=0.02, cancel_poll_s=0.1))

    def __post_init__(self) -> None:
        signal, clock = MemorySignal(), SystemClock()
        stores = make_stores(Settings(bucket="tests"), self.objects, signal, clock)
        self.jobs, self.queue, self._stores = stores.jobs, stores.queue, stores
        self.logs, self.log = stores.logs, EngineLog(100)

    async def claimed(self, graph: dict[str, Any] | None = None, **fields: Any) -> StoredJob:
        workflow = json.dumps(graph or GRAPH).encode()
        await self.jobs.create(a_job(created_at=SystemClock().now(), **fields), workflow=workflow)
        claimed = await self.queue.claim("default", "w1")
        assert claimed is not None
        return claimed

    async def run(self, claimed: StoredJob) -> Ran:
        folders = {name: self.folder / name for name in ("input", "output", "temp")}
        engine = HttpEngine(self.comfy.url, self.files(**{f"{name}_dir": path for name, path in folders.items()}))
        engine.showing = self.showing
        attempt = Attempt(claimed, self._stores, ScriptedHost.of(engine, self.log), Catalogue.absent(), self.policy)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return Ran(await attempt.run(), attempt.engine_suspect)
        finally:
            await engine.close()

    async def record(self, job_id: str) -> JobRecord:
        return (await self.jobs.read("default", job_id)).record

    async def until(self, job_id: str, holds: Callable[[JobRecord], bool]) -> JobRecord:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                record = await self.record(job_id)
                if holds(record):
                    return record
                await asyncio.sleep(0.01)


@asynccontextmanager
async def stage(folder: Path, script: Script, files: Callable[..., FolderFiles] = FolderFiles) -> AsyncIterator[Stage]:
    async with serving(script) as comfy:
        yield Stage(folder, comfy, files)


def painted(folder: Path, name: str = "a.txt") -> dict[str, Any]:
    """Write an output file, and return a ui payload that names it."""
    (folder / "output").mkdir(exist_ok=True)
    (folder / "output" / name).write_text(name)
    return {"images": [{"filename": name, "subfolder": "", "type": "output"}]}


async def paint(play: Play, folder: Path) -> dict[str, Any]:
    ui = painted(folder)
    await play.say("execution_start")
    await play.say("executing", node="1", display_node="1")
    await play.say("executed", node="1", display_node="1", output=ui)
    return {"1": ui}


def painting(folder: Path) -> Script:
    async def script(play: Play) -> None:
        await play.succeed(await paint(play, folder))

    return script
