"""GET /v1/system as clients see it: versions, and what each pool's last worker runs on."""

import platform
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from app import __version__
from app.wire.base import Answer, Moment
from storage.published.worker_facts import WorkerFacts


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
    """The worker of a pool that told last; it may be gone."""

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


class PoolView(Answer):
    name: str
    worker: WorkerView | None = Field(description="null until a first worker has told")


class SystemView(Answer):
    """What runs here."""

    version: str = Field(description="of this API's code")
    python_version: str = Field(description="of the API's Python")
    pools: list[PoolView]


def system_view(workers: Mapping[str, WorkerFacts | None]) -> SystemView:
    """`workers` by pool."""
    return SystemView(
        version=__version__,
        python_version=platform.python_version(),
        pools=[PoolView(name=pool, worker=_worker_view(facts)) for pool, facts in workers.items()],
    )


def _worker_view(facts: WorkerFacts | None) -> WorkerView | None:
    return None if facts is None else WorkerView.model_validate(facts.model_dump())
