"""The Modal app: `modal deploy -m infra.modal_app`. A thin shell, without logic of its own.

Containers get their settings (bucket, API key) from one secret. The numbers here are read where the deploy runs;
what containers must know of them travels along as variables.
"""

import importlib
import os
from collections.abc import Iterator
from typing import Any

import modal
import modal.experimental

from infra.image import COMFYUI, ENGINE_PYTHON, MODELS, comfyui_image, control_image
from infra.nodes import custom_nodes
from infra.on_modal.names import APP_NAME
from infra.settings import ENV_PREFIX, DeploymentSettings
from storage.keys import DEFAULT_POOL

API_CONCURRENCY = 100
"""Requests that one API container serves at once: they wait for the bucket, not for the CPU."""
DELIVER_CONCURRENCY = 20
"""Calls of the deliverer at once: one that waits for a slow receiver does not keep the others from theirs."""
LONGEST_DOWNLOAD_S = 24 * 3600
"""Modal's own limit; a download that it ends goes on at the next sync."""
EVERY_MINUTE = "* * * * *"
REAP_IDLE_S = 2
"""Modal's least. With its usual minute, a function that is called every minute would never end."""
DELIVER_IDLE_S = 10
"""For the next event of a job that is under way; not until the next minute's call."""
LEAST_IDLE_S = 2
"""Of what is called once."""
EARLY_IMPORT = "IMPORT_BEFORE_SNAPSHOT"
"""The variable by which a container knows what to import before its memory snapshot, which is taken when this module
has been imported."""

if early := os.environ.get(EARLY_IMPORT):
    importlib.import_module(early)

deployment = DeploymentSettings()
is_photographed = deployment.photographed != "off"
volume = modal.Volume.from_name(deployment.model_volume, create_if_missing=True, version=2)
models = volume.with_mount_options(read_only=True)

if deployment.image == "comfyui":
    worker_image = comfyui_image(
        cuda=deployment.cuda,
        comfyui_version=deployment.comfyui_version,
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
    max_containers=deployment.max_api_containers,
    enable_memory_snapshot=True,
)
@modal.concurrent(max_inputs=API_CONCURRENCY)
@modal.asgi_app(label=deployment.api_label)
def api():  # type: ignore[no-untyped-def]  # noqa: ANN201  modal serialises annotations
    """The HTTP face."""
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
    """What a process that died has left undone is found and done."""
    from infra.on_modal.reaper import sweep

    sweep()


@app.function(
    env=known,
    region=deployment.region,
    schedule=modal.Cron(EVERY_MINUTE),
    max_containers=1,
    scaledown_window=DELIVER_IDLE_S,
)
@modal.concurrent(max_inputs=DELIVER_CONCURRENCY)
def deliver() -> None:
    """Events that are due go to their receivers."""
    from infra.on_modal.deliverer import deliver_due

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
    """Starts the engine without a GPU, and publishes for each pool which nodes it has. Returns what is missing."""
    from infra.on_modal.publication import publish_engine

    return publish_engine()


@app.function(
    env=known,
    region=deployment.region,
    volumes={MODELS: volume},
    max_containers=1,
    timeout=LONGEST_DOWNLOAD_S,
    scaledown_window=LEAST_IDLE_S,
)
def download_models(command: str, wanted: list[dict[str, Any]]) -> Iterator[Any]:
    """`sync`, `plan` or `verify` the volume: steps, then what was found. The manifest's models come from the caller;
    nothing is retried here."""
    from infra.on_modal.models import see_to_models

    yield from see_to_models(command, wanted, MODELS, volume.commit)


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
    timeout=deployment.container_run_s,
    enable_memory_snapshot=is_photographed,
    experimental_options={"enable_gpu_snapshot": True} if deployment.photographed == "gpu" else {},
)
class ComfyWorker:
    """One engine, one job at a time. A ticket is a call of `run`; `pool` is whose queue it serves."""

    pool: str = modal.parameter(default=DEFAULT_POOL)

    @modal.enter(snap=is_photographed)
    def prepare(self) -> None:
        """What a snapshot of the container holds, if there is to be one."""
        from infra.on_modal.worker import TicketWorker

        if is_photographed:
            self.worker = TicketWorker(self.pool, models.reload)
            self.worker.prepare(is_on_gpu=deployment.photographed == "gpu")

    @modal.enter()
    def start(self) -> None:
        """The engine is ready when this returns, or the tickets are told why it is not."""
        from infra.on_modal.worker import TicketWorker

        if not is_photographed:
            self.worker = TicketWorker(self.pool, models.reload)
        self.worker.start()

    @modal.method()
    def run(self) -> str | None:
        """Run the best queued job; returns its id, or None if there was none left.

        A container whose engine cannot be started takes no other ticket.
        """
        from workers.errors import EngineUnavailable

        try:
            return self.worker.run_ticket()
        except EngineUnavailable:
            if self.worker.is_broken:
                modal.experimental.stop_fetching_inputs()
            raise

    @modal.exit()
    def stop(self) -> None:
        """The engine ends with its container."""
        self.worker.stop()
