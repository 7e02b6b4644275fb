"""The Modal app: `modal deploy -m infra.modal_app`. A thin shell, without logic of its own.

Containers get their settings (bucket, API key, engine) from one secret; the numbers here are read at deploy time.
"""

import modal

from infra.modal_names import APP_NAME
from infra.settings import DeploymentSettings

API_CONCURRENCY = 100
"""Requests that one API container serves at once: they wait for the bucket, not for the CPU."""

SOURCES = ("app", "infra", "storage", "workers", "workflows")

deployment = DeploymentSettings()

image = (
    modal.Image.debian_slim(python_version="3.11")
    .pip_install_from_requirements("requirements/base.txt")
    .add_local_python_source(*SOURCES, ignore=["**/__pycache__", "**/*.pyc"])
)
app = modal.App(APP_NAME, image=image, secrets=[modal.Secret.from_name(deployment.secret)])


@app.function(max_containers=deployment.max_api_containers)
@modal.concurrent(max_inputs=API_CONCURRENCY)
@modal.asgi_app()
def api():  # type: ignore[no-untyped-def]  # noqa: ANN201  modal serialises annotations
    """The HTTP face."""
    from infra.modal_runtime import api_application

    return api_application()


@app.function(schedule=modal.Period(seconds=deployment.reap_every_s), max_containers=1)
def reap() -> None:
    """What a process that died has left undone is found and done."""
    from infra.modal_runtime import sweep

    sweep()


@app.function(schedule=modal.Period(seconds=deployment.deliver_every_s), max_containers=1)
def deliver() -> None:
    """Events that are due go to their receivers."""
    from infra.modal_runtime import deliver_due

    deliver_due()


@app.cls(
    gpu=deployment.gpus,
    max_containers=deployment.max_workers,
    scaledown_window=deployment.scaledown_s,
    startup_timeout=deployment.container_start_s,
    timeout=deployment.container_run_s,
)
class ComfyWorker:
    """One engine, one job at a time. A ticket is a call of `run`."""

    @modal.enter()
    def start(self) -> None:
        """The engine is ready when this returns."""
        from infra.modal_runtime import TicketWorker

        self.worker = TicketWorker()
        self.worker.start()

    @modal.method()
    def run(self) -> str | None:
        """Run the best queued job; returns its id, or None if there was none left."""
        return self.worker.run_ticket()

    @modal.exit()
    def stop(self) -> None:
        """The engine ends with its container."""
        self.worker.stop()
