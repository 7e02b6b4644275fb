"""The Modal app: `modal deploy -m infra.modal_app`. A thin layer without logic.

Containers read their settings (bucket, API key) from one Modal secret. Deployment settings are read where the deploy
runs, and passed to the containers as environment variables.
"""

import importlib
import os
from collections.abc import Iterator
from typing import Any

import modal
import modal.experimental

from infra.image import COMFYUI, ENGINE_PYTHON, MODELS, comfyui_image, control_image
from infra.nodes import custom_nodes
from infra.on_modal import API_CONCURRENCY, API_TARGET, APP_NAME
from infra.settings import ENV_PREFIX, DeploymentSettings
from storage.keys import DEFAULT_POOL

API_TIMEOUT_S = 600
"""The time limit of a request: more than that of a stream of events, which Modal's default of 300 s could cut."""
DELIVER_CONCURRENCY = 20
"""Concurrent calls of the deliverer. They share one sweep, so all but two of them end at once."""
DELIVER_TIMEOUT_S = 600
"""The time limit of a call of the deliverer: the sweep that it waits for, and its own."""
LONGEST_DOWNLOAD_S = 24 * 3600
"""Modal's limit for a call. A download that it ends is resumed by the next sync."""
EVERY_MINUTE = "* * * * *"
REAP_IDLE_S = 2
"""Modal's minimum. With its default of a minute, a function that is called every minute would never stop."""
DELIVER_IDLE_S = 10
"""Long enough for the next event of a running job, shorter than the minute until the next scheduled call."""
LEAST_IDLE_S = 2
"""The idle time of functions that are called once."""
EARLY_IMPORT = "IMPORT_BEFORE_SNAPSHOT"
"""The variable that names the module to import before a container's memory snapshot. Modal takes the snapshot after
it has imported this module."""

if early := os.environ.get(EARLY_IMPORT):
    importlib.import_module(early)

deployment = DeploymentSettings()
has_snapshot = deployment.snapshot_kind != "off"
volume = modal.Volume.from_name(deployment.model_volume, create_if_missing=True, version=2)
models = volume.with_mount_options(read_only=True)

if deployment.image == "comfyui":
    worker_image = comfyui_image(
        cuda=deployment.cuda,
        comfyui_version=deployment.comfyui_version,
        # Containers import this module too, but have no manifest; their image is built already.
        nodes=custom_nodes(deployment.nodes, deployment.node_packs) if modal.is_local() else (),
        sage_architectures=deployment.sage_targets,
    )
    engine: dict[str, str | None] = {ENV_PREFIX + "ENGINE": COMFYUI, ENV_PREFIX + "COMFYUI_PYTHON": ENGINE_PYTHON}
else:
    worker_image, engine = control_image(), {}

app = modal.App(APP_NAME, image=control_image(), secrets=[modal.Secret.from_name(deployment.secret)])
known: dict[str, str | None] = {**deployment.environment()}


@app.function(
    env=known | {EARLY_IMPORT: "infra.on_modal.api"},
    region=deployment.region,
    timeout=API_TIMEOUT_S,
    max_containers=deployment.max_api_containers,
    enable_memory_snapshot=True,
)
@modal.concurrent(max_inputs=API_CONCURRENCY, target_inputs=API_TARGET)
@modal.asgi_app(label=deployment.api_label)
def api():  # type: ignore[no-untyped-def]  # noqa: ANN201  modal serialises annotations
    """Serve the HTTP API."""
    from infra.on_modal.api import api_application

    return api_application()


@app.function(
    env=known,
    region=deployment.region,
    schedule=modal.Cron(EVERY_MINUTE),
    max_containers=1,
    scaledown_window=REAP_IDLE_S,
)
def reap() -> None:
    """Run one sweep of the reaper."""
    from infra.on_modal.tasks import sweep

    sweep()


@app.function(
    env=known,
    region=deployment.region,
    schedule=modal.Cron(EVERY_MINUTE),
    max_containers=1,
    scaledown_window=DELIVER_IDLE_S,
    timeout=DELIVER_TIMEOUT_S,
)
@modal.concurrent(max_inputs=DELIVER_CONCURRENCY)
def deliver() -> None:
    """Deliver the events that are due."""
    from infra.on_modal.tasks import deliver_due

    deliver_due()


@app.function(
    image=worker_image,
    env=known | engine,
    region=deployment.region,
    volumes={MODELS: models},
    timeout=deployment.container_start_s,
    scaledown_window=LEAST_IDLE_S,
)
def check_image() -> list[str]:
    """Start the engine without a GPU and publish its node classes for each pool. Return what is missing."""
    from infra.on_modal.tasks import publish_engine

    return publish_engine()


@app.function(
    env=known,
    region=deployment.region,
    volumes={MODELS: volume},
    max_containers=1,
    timeout=LONGEST_DOWNLOAD_S,
    scaledown_window=LEAST_IDLE_S,
)
def download_models(command: Any, wanted: list[dict[str, Any]]) -> Iterator[Any]:
    """Run `sync`, `plan` or `verify` on the volume. Yield steps, then what was found.

    The caller passes the manifest's models. The function does not retry.
    """
    from infra.on_modal.tasks import manage_models

    yield from manage_models(command, wanted, MODELS, volume.commit)


@app.cls(
    image=worker_image,
    env={**deployment.threads(), **known, **engine},
    gpu=deployment.gpus,
    cpu=deployment.worker_cpu if deployment.gpus else None,
    memory=deployment.worker_memory_mib if deployment.gpus else None,
    region=deployment.region,
    volumes={MODELS: models},
    min_containers=deployment.min_workers,
    max_containers=deployment.max_workers,
    scaledown_window=deployment.scaledown_s,
    startup_timeout=deployment.container_start_s,
    timeout=deployment.call_s,
    enable_memory_snapshot=has_snapshot,
    experimental_options={"enable_gpu_snapshot": True} if deployment.snapshot_kind == "gpu" else {},
)
class ComfyWorker:
    """A worker with one engine and one job at a time. A ticket is a call of `run`; `pool` names its queue."""

    pool: str = modal.parameter(default=DEFAULT_POOL)

    @modal.enter(snap=has_snapshot)
    def prepare(self) -> None:
        """Create what the container's snapshot contains, if snapshots are enabled."""
        from infra.on_modal.worker import TicketWorker

        if has_snapshot:
            self.worker = TicketWorker(self.pool, models.reload, ticket_s=deployment.ticket_s)
            self.worker.prepare(is_on_gpu=deployment.snapshot_kind == "gpu")

    @modal.enter()
    def start(self) -> None:
        """Start the worker. If its engine does not start, tickets fail with the reason."""
        from infra.on_modal.worker import TicketWorker

        if not has_snapshot:
            self.worker = TicketWorker(self.pool, models.reload, ticket_s=deployment.ticket_s)
        self.worker.start()

    @modal.method()
    def run(self, is_single: bool = False) -> int:  # noqa: FBT001, FBT002  a call of Modal has plain arguments
        """Run queued jobs until none is left or the ticket's time is over, and return their number.

        A container whose engine cannot start, or whose disk is full, takes no further ticket.
        """
        from workers.errors import EngineUnavailable, WorkerDiskFull

        try:
            return self.worker.run_ticket(modal.current_function_call_id(), is_single=is_single)
        except (EngineUnavailable, WorkerDiskFull):
            if self.worker.is_broken:
                modal.experimental.stop_fetching_inputs()
            raise

    @modal.exit()
    def stop(self) -> None:
        """Stop the engine before its container ends."""
        self.worker.stop()
