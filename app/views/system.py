"""The response of GET /v1/system: versions, and the environment of each pool's last worker."""

import platform
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from app import __version__
from app.wire.base import Answer, Moment
from storage.pools.engine_starts import StartState
from storage.pools.worker_facts import WorkerFacts


class AttentionView(Answer):
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


class WorkerView(Answer):
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


class FailedStartsView(Answer):
    """Why workers of a pool do not get ready. Three in a row fail the jobs that wait, and pause further starts."""

    failures: int = Field(description="starts that failed in a row")
    last_at: Moment
    message: str
    log_tail: list[str] = Field(description="the engine's last lines")
    paused_until: Moment | None = Field(description="no worker is started before; null if one may be")


class PoolView(Answer):
    name: str
    worker: WorkerView | None = Field(description="null until a first worker has reported")
    failed_starts: FailedStartsView | None = Field(description="null if the engine's last start went well")


class SystemView(Answer):
    """What runs here."""

    version: str = Field(description="of this API's code")
    python_version: str = Field(description="of the API's Python")
    pools: list[PoolView]


def system_view(workers: Mapping[str, WorkerFacts | None], starts: Mapping[str, StartState]) -> SystemView:
    """Build the response from the workers' facts and the engine starts, both by pool."""
    return SystemView(
        version=__version__,
        python_version=platform.python_version(),
        pools=[
            PoolView(name=pool, worker=_worker_view(facts), failed_starts=_failed_starts_view(starts[pool]))
            for pool, facts in workers.items()
        ],
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
