"""/v1/system: versions, pools and their last workers; /health and /ready: the probes of this process."""

import asyncio
import platform
import tempfile
import time
from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from app import __version__
from app.api.context import NO_STORE, Context, answer, context_of
from app.auth import NO_TENANT
from app.fields import Moment, ResponseBody
from app.operations import Operation
from app.problems import log_refusal
from storage import keys
from storage.bucket.budget import background
from storage.concurrency import gather
from storage.errors import DiskAlmostFull, StorageError
from storage.keys import DEFAULT_POOL
from storage.pools.engine_starts import StartState
from storage.pools.engine_use import EngineUse
from storage.pools.worker_facts import WorkerFacts

READY_LIFE_S = 2.0
"""Seconds for which a check of the bucket is reused, so that frequent probes do not cost a bucket request each."""

SYSTEM_AGE_S = 1.0
"""The greatest age of an answer of /v1/system. It reads two objects for each pool, and workers change seldom."""

PROBE_BYTES = 64 * 1024
"""What a probe writes to the folder of temporary files."""

READY_WAIT_S = 1.5
"""Seconds that a probe waits for the check."""


class Health(ResponseBody):
    status: Literal["ok"]
    version: str = Field(description="of this API's code")


class Ready(ResponseBody):
    status: Literal["ready", "not_ready"]
    detail: str


class AttentionView(ResponseBody):
    """The attention that ComfyUI was started with, and what was measured before, if anything was."""

    backend: Literal["sage", "sdpa"] | None = Field(description="null where it is not ours to choose")
    flag: str | None
    reason: str
    gpu: str | None
    gpu_memory_bytes: int | None
    capability: str | None = Field(description="the GPU's architecture, as 8.9")
    sageattention: str | None = Field(description="its version")
    cosine: float | None = Field(description="similarity of SageAttention's results to those of torch")
    sage_ms: float | None
    sdpa_ms: float | None


class WorkerView(ResponseBody):
    """The worker of a pool that reported last; it may be gone."""

    worker: str
    started_at: Moment
    engine: str = Field(description="comfyui or lite")
    comfyui_version: str | None
    python_version: str | None
    torch_version: str | None
    gpu: str | None
    gpu_memory_bytes: int | None
    attention: AttentionView
    isolation: str | None = Field(
        description="what keeps the engine apart from its worker: a user of its own, Landlock, both, or `none`"
    )


class FailedStartsView(ResponseBody):
    """Why workers of a pool do not get ready. Three in a row fail the jobs that wait, and pause further starts."""

    failures: int = Field(description="starts that failed in a row")
    last_at: Moment
    message: str
    log_tail: list[str] = Field(description="the engine's last lines")
    paused_until: Moment | None = Field(description="no worker is started before; null if one may be")


class EngineUseView(ResponseBody):
    """What the engines of a pool did since each was ready. A worker counts for a day after its last report."""

    workers: int = Field(description="that are counted, at most 64")
    computed_s: float
    idle_s: float
    computed_share: float | None = Field(
        description="the share of the time in which prompts ran; null if none is known"
    )


class PoolView(ResponseBody):
    name: str
    engine_use: EngineUseView
    worker: WorkerView | None = Field(description="null until a first worker has reported")
    failed_starts: FailedStartsView | None = Field(description="null if the engine's last start went well")


class SystemView(ResponseBody):
    """What runs here."""

    version: str = Field(description="of this API's code")
    python_version: str = Field(description="of the API's Python")
    pools: list[PoolView]


def system_view(
    workers: Mapping[str, WorkerFacts | None], starts: Mapping[str, StartState], uses: Mapping[str, EngineUse]
) -> SystemView:
    """Build the response from the workers' facts, the engine starts and the engines' times, all by pool."""
    return SystemView(
        version=__version__,
        python_version=platform.python_version(),
        pools=[
            PoolView(
                name=pool,
                engine_use=_engine_use_view(uses[pool]),
                worker=_worker_view(facts),
                failed_starts=_failed_starts_view(starts[pool]),
            )
            for pool, facts in workers.items()
        ],
    )


def _engine_use_view(use: EngineUse) -> EngineUseView:
    return EngineUseView(
        workers=use.workers,
        computed_s=round(use.computed_s, 1),
        idle_s=round(use.idle_s, 1),
        computed_share=use.computed_share,
    )


def _failed_starts_view(state: StartState) -> FailedStartsView | None:
    if state.last is None:
        return None
    return FailedStartsView(
        failures=state.failures,
        last_at=state.last.at,
        message=state.last.message,
        log_tail=list(state.last.log_tail),
        paused_until=state.paused_until,
    )


def _worker_view(facts: WorkerFacts | None) -> WorkerView | None:
    return None if facts is None else WorkerView.model_validate(facts.model_dump())


async def show(request: Request) -> Response:
    """Describe the system, from a read that all tenants share and that is at most `SYSTEM_AGE_S` old."""
    context = context_of(request)

    async def text() -> str:
        return (await read_system(context)).model_dump_json()

    body = await context.shared.get(NO_TENANT, "system", text, max_age_s=SYSTEM_AGE_S)
    return Response(body, 200, NO_STORE, "application/json")


async def read_system(context: Context) -> SystemView:
    pools = (DEFAULT_POOL, *context.config.gpu_pools)
    found = await gather(*(context.stores.worker_facts.read(pool) for pool in pools))
    starts = await gather(*(context.stores.engine_starts.state(pool) for pool in pools))
    uses = await gather(*(context.stores.engine_use.sum(pool) for pool in pools))
    return system_view(
        dict(zip(pools, found, strict=True)),
        dict(zip(pools, starts, strict=True)),
        dict(zip(pools, uses, strict=True)),
    )


NOT_READY = Ready(status="not_ready", detail="the bucket does not answer, or refuses writes")


async def health(_: Request) -> Response:
    return answer(Health(status="ok", version=__version__))


async def ready(request: Request) -> Response:
    """Respond within `READY_WAIT_S`, even while the bucket hangs."""
    state = request.app.state
    # All probes share one check: probes that time out must not use up the bucket's connections one by one.
    check: _Check | None = getattr(state, "ready", None)
    if check is None or check.is_old():
        check = state.ready = _Check(background(_probe(request)))
    # `wait` leaves the check running after the timeout; `wait_for` would cancel it for all probes.
    await asyncio.wait({check.task}, timeout=READY_WAIT_S)
    found = check.task.result() if check.task.done() else NOT_READY
    return answer(found, 200 if found.status == "ready" else 503)


class _Check:
    """A check of the bucket, running or done. It is valid until `READY_LIFE_S` after its end."""

    def __init__(self, task: asyncio.Task[Ready]) -> None:
        self.task = task
        self._ended_at: float | None = None
        task.add_done_callback(self._end)

    def is_old(self) -> bool:
        return self._ended_at is not None and time.monotonic() - self._ended_at > READY_LIFE_S

    def _end(self, _: asyncio.Task[Ready]) -> None:
        self._ended_at = time.monotonic()


async def _probe(request: Request) -> Ready:
    """Check the bucket with a read and a write, and the disk of temporary files with a write."""
    services = context_of(request).services
    try:
        services.check_disk()
        await asyncio.to_thread(_write_temporary_file)
        await services.stores.objects.list(keys.PROBES, limit=1)
        # A bucket with a full disk still serves reads.
        await services.stores.objects.put(keys.probe("ready"), b"probe", content_type="text/plain")
    except DiskAlmostFull as error:
        return Ready(status="not_ready", detail=str(error))
    except StorageError as error:
        log_refusal(error)
        return NOT_READY
    except OSError as error:
        return Ready(status="not_ready", detail=f"the folder of temporary files takes no writes: {error.strerror}")
    return Ready(status="ready", detail="the bucket takes writes")


def _write_temporary_file() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(PROBE_BYTES))
        file.flush()


OPERATIONS = (
    Operation(
        show,
        "get_system",
        "get",
        "/v1/system",
        "What runs here: versions, GPUs, attention",
        {200: ("the API, and the last worker of each pool", SystemView)},
    ),
    Operation(
        health, "get_health", "get", "/health", "Whether the process lives", {200: ("it lives", Health)}, is_open=True
    ),
    Operation(
        ready,
        "get_ready",
        "get",
        "/ready",
        "Whether the API can do its work",
        {200: ("it can", Ready), 503: ("its bucket, or its folder of temporary files, takes no writes", Ready)},
        is_open=True,
    ),
)
