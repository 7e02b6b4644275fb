"""Builds a worker and its engine from the settings and the stores."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.secrecy import Redactor
from infra.settings import THREAD_VARIABLES, BadSetting, Settings
from storage.stores import Stores
from workers.attempt import AttemptPolicy
from workers.attention_memory import AttentionMemory
from workers.comfy.execution import ExecutionPolicy
from workers.comfy.flags import parse_flags
from workers.comfy.host import EngineHost, RunningEngine
from workers.comfy.process import EngineProcess
from workers.comfy.spec import EngineFolders, EngineSpec
from workers.comfy.warm import WarmHost
from workers.isolation import IsolationPolicy
from workers.lookahead import OverlapPolicy
from workers.loop import WorkerLoop
from workers.outputs.uploads import UploadPolicy
from workers.preparation import PreparationPolicy
from workers.publisher import WorkerIdentity
from workers.reporter import ReportPolicy
from workers.starts import CountedStarts
from workflows.library import library


def worker_loop(
    settings: Settings,
    stores: Stores,
    host: EngineHost,
    on_ready: Callable[[], None] = lambda: None,
    *,
    prices: Mapping[str, float] | None = None,
) -> WorkerLoop:
    """Build a worker. `prices` are those of its platform; prices in the settings override them."""
    identity = WorkerIdentity(
        settings.process_name, settings.pool, settings.queue_poll_s, {**(prices or {}), **settings.gpu_prices}
    )
    return WorkerLoop(identity, host, stores, attempt_policy(settings), on_ready, overlap_policy(settings))


def counted_starts(settings: Settings, stores: Stores, host: EngineHost) -> CountedStarts:
    """Count the starts of this engine. What a failed one says is published without secrets and paths of this host."""
    hide = Redactor(settings.secret_values())
    return CountedStarts(
        stores.engine_starts, settings.pool, settings.process_name, lambda text: hide(host.paths.hidden(text))
    )


def attempt_policy(settings: Settings) -> AttemptPolicy:
    return AttemptPolicy(
        max_attempts=settings.max_attempts,
        min_free_bytes=settings.min_free_bytes,
        log_interval_s=settings.log_interval_s,
        execution=ExecutionPolicy(stall_s=settings.engine_stall_s),
        uploads=UploadPolicy(
            parallel=settings.parallel_uploads,
            inline_text_bytes=settings.inline_text_bytes,
            max_outputs=settings.max_outputs,
            max_output_bytes=settings.max_output_bytes,
        ),
        preparation=PreparationPolicy(settings.media_limits, settings.max_media_checks),
        report=ReportPolicy(
            interval_s=settings.progress_interval_s,
            cancel_poll_s=settings.cancel_poll_s,
            lease_s=settings.lease_s,
            max_record_bytes=settings.max_record_bytes,
        ),
    )


def overlap_policy(settings: Settings) -> OverlapPolicy:
    return OverlapPolicy(
        concluding=settings.concluding_jobs,
        ahead_bytes=settings.ahead_input_bytes,
        free_bytes=max(settings.ahead_free_bytes, settings.min_free_bytes),
    )


def engine_host(
    settings: Settings, environment: Mapping[str, str], memory: AttentionMemory | None = None
) -> EngineHost:
    """Return the engine that the setting `engine` names. `environment` is the whole environment of its process."""
    if settings.engine.startswith(("http://", "https://")):
        return RunningEngine(settings.engine)
    return EngineProcess(engine_spec(settings, environment, memory))


def engine_spec(
    settings: Settings, environment: Mapping[str, str], memory: AttentionMemory | None = None
) -> EngineSpec:
    """Describe how the worker starts its own engine. `memory` holds the attention backends of earlier starts."""
    folders = EngineFolders(settings.engine_dir or Path(tempfile.mkdtemp(prefix="comfyui-modal-engine-")))
    if settings.engine == "lite":
        spec = EngineSpec.lite(folders=folders, fault_nodes=settings.lite_fault_nodes, environment=environment)
        return replace(spec, isolation=isolation_policy(settings))
    spec = EngineSpec.comfyui(
        Path(settings.engine),
        python=settings.comfyui_python,
        folders=folders,
        cpu=settings.comfyui_cpu,
        environment=environment,
        start_timeout_s=settings.engine_start_timeout_s,
        attention=settings.attention,
    ).with_flags(parse_flags(settings.engine_flags))
    attention = None if spec.attention is None else replace(spec.attention, memory=memory)
    return replace(spec, isolation=isolation_policy(settings), attention=attention)


def isolation_policy(settings: Settings) -> IsolationPolicy:
    """Return the policy that hides this process's files on disk from the engine."""
    own = [path for path in (settings.signal_dir, settings.readiness_file) if path is not None]
    named = [Path(path).expanduser().absolute() for path in settings.private_dirs]
    return IsolationPolicy(settings.isolation, settings.engine_user, (*named, *own))


def warm(settings: Settings, host: EngineHost) -> EngineHost:
    """Wrap the host in the warm-up that the settings require."""
    graph = warm_up_graph(settings)
    if graph is None:
        return host
    return WarmHost(host, graph, attempt_policy(settings).execution, limit_s=settings.engine_start_timeout_s)


def warm_up_graph(settings: Settings) -> Mapping[str, Any] | None:
    """Return the graph of the warm-up, if any. Raise `BadSetting` for an unknown workflow or one that needs media."""
    if settings.warm_up is None:
        return None
    known = {name: one for name, one in library(settings.workflows_dir).items() if not one.needs_files}
    if settings.warm_up not in known:
        raise BadSetting(f"warm_up: there is no workflow {settings.warm_up!r} without media, only {', '.join(known)}")
    return known[settings.warm_up].graph


def engine_environment() -> dict[str, str]:
    """Return the variables that ComfyUI inherits. They include no setting and no credential of this process."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _ENGINE_VARIABLES or name.startswith(("CUDA_", "NVIDIA_", "TORCH", "PYTORCH_", "LC_"))
    }


_ENGINE_VARIABLES = frozenset(
    {
        *("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "XDG_CACHE_HOME"),
        *("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"),  # not HF_TOKEN
        *("HF_HUB_ENABLE_HF_TRANSFER", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "HF_XET_CACHE"),
        *THREAD_VARIABLES,
    }
)
