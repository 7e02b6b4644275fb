"""What the Modal functions run: the same parts as on one machine. Imports no `modal` itself."""

import asyncio
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from app.asgi import create_app
from infra.check_image import examine, packs_of, shipped_workflows
from infra.compose import api_config, api_services, make_stores, open_stores, s3_config
from infra.compose_workers import (
    dispatcher,
    engine_environment,
    engine_host,
    engine_spec,
    reaper,
    warm,
    webhook_transport,
    worker_loop,
)
from infra.gpu_prices import MODAL_USD_PER_S
from infra.logs import configure_logging
from infra.models.folders import model_folder, perform
from infra.models.manifest import Model
from infra.models.progress import Step, streamed
from infra.on_modal.launcher import ModalLauncher
from infra.on_modal.pools import ModalPools
from infra.on_modal.signal import ModalSignal
from infra.on_modal.url import with_public_url
from infra.secrecy import keep_secrets
from infra.settings import Settings
from storage.bucket.s3 import S3ObjectStore
from storage.keys import DEFAULT_POOL
from storage.signal import MemorySignal
from workers.comfy.snapshot import SnapshotHost
from workers.errors import EngineUnavailable

__all__ = [
    "EngineUnavailable",
    "TicketWorker",
    "api_application",
    "deliver_due",
    "publish_engine",
    "see_to_models",
    "sweep",
]

T = TypeVar("T")

logger = logging.getLogger(__name__)

GIVE_BACK_S = 20.0
"""How long an interrupted ticket may take to give its job back: Modal's grace is 30 s, the engine's stop included."""


def api_application() -> Any:
    """The ASGI application of one API container."""
    settings = Settings()
    configure_logging("api", settings.log_level, settings.secret_values())
    stores = make_stores(settings, S3ObjectStore(s3_config(settings)), ModalSignal())
    return create_app(api_services(settings, stores, launcher(settings)), api_config(settings))


def launcher(settings: Settings) -> ModalLauncher:
    return ModalLauncher(ModalPools(settings.gpu_pools))


def sweep() -> None:
    """One sweep of the reaper."""
    settings = Settings()
    configure_logging("reaper", settings.log_level, settings.secret_values())

    async def once() -> None:
        async with open_stores(settings, ModalSignal()) as stores:
            await reaper(settings, stores, launcher(settings)).sweep()

    asyncio.run(once())


def deliver_due() -> None:
    """Everything that is due now, once."""
    settings = with_public_url(Settings())
    configure_logging("deliverer", settings.log_level, settings.secret_values())

    async def once() -> None:
        transport = webhook_transport(settings)
        try:
            async with open_stores(settings, MemorySignal()) as stores:
                await dispatcher(settings, stores, transport).sweep()
        finally:
            await transport.close()

    asyncio.run(once())


def publish_engine() -> list[str]:
    """Which nodes the deployed engine has, for the checks of submissions to any pool. Returns what is missing for our
    own workflows, in words."""
    settings = Settings().model_copy(update={"comfyui_cpu": True})
    configure_logging("check-image", settings.log_level, settings.secret_values())

    async def once() -> list[str]:
        is_lite = settings.engine == "lite"
        packs = set() if is_lite else packs_of(Path(settings.engine))
        workflows = shipped_workflows(packs, has_models=not is_lite)
        report = await examine(engine_host(settings, engine_environment()), workflows)
        async with open_stores(settings, MemorySignal()) as stores:
            for pool in (DEFAULT_POOL, *settings.gpu_pools):
                await stores.engine_info.publish(pool, report.object_info)
        return list(report.problems)

    return asyncio.run(once())


def see_to_models(
    command: str, wanted: list[dict[str, Any]], folder: str, commit: Callable[[], None] = lambda: None
) -> Iterator[Step | dict[str, list[dict[str, Any]]]]:
    """One of `ModelFolder`'s commands on the volume: steps as it goes on, and last `{"found": […]}`, one a model. What
    was downloaded is committed, and then known to the checks of submissions at once."""
    settings = Settings()
    configure_logging("models", settings.log_level, settings.secret_values())
    here = model_folder(settings.huggingface_token, Path(folder))
    models = [Model.model_validate(model) for model in wanted]
    found = yield from streamed(lambda on_progress: perform(command, models, here, on_progress))
    commit()

    async def tell() -> None:
        async with open_stores(settings, MemorySignal()) as stores:
            for pool in (DEFAULT_POOL, *settings.gpu_pools):
                await stores.engine_info.files_changed(pool)

    if any(one.state == "downloaded" for one in found):
        asyncio.run(tell())
    yield {"found": [asdict(one) for one in found]}


class TicketWorker:
    """A worker whose callers are threads: its event loop runs on between tickets, and keeps the engine watched.

    `prepare` comes before a container's snapshot, if it is to have one, `start` after it, or at once. What is to
    differ between containers (connections, names) begins with `start`. `reload_models` makes visible what was
    downloaded since the container has mounted the models.
    """

    def __init__(self, pool: str, reload_models: Callable[[], None] = lambda: None) -> None:
        self._pool = pool
        self._reload_models = reload_models
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="worker", daemon=True)
        self._snapshot: SnapshotHost | None = None

    def prepare(self, *, is_on_gpu: bool) -> None:
        """The engine is started, for a snapshot of it. `is_on_gpu`: the snapshot holds the GPU's memory too."""
        settings = Settings()
        configure_logging("snapshot", settings.log_level, settings.secret_values())
        self._thread.start()
        folder = Path(tempfile.mkdtemp(prefix="comfyui-modal-engine-"))
        settings = settings.model_copy(update={"engine_dir": settings.engine_dir or folder})
        self._snapshot = SnapshotHost(lambda: engine_spec(settings, engine_environment()), is_on_gpu=is_on_gpu)
        self._run(self._snapshot.prepare())

    def start(self) -> None:
        """The engine is ready when this returns; the log tells what took how long."""
        began = time.monotonic()
        settings = Settings()
        name = os.environ.get("MODAL_TASK_ID", settings.process_name)
        settings = settings.model_copy(update={"process_name": name, "pool": self._pool})
        configure_logging(name, settings.log_level, settings.secret_values())
        if not self._thread.is_alive():
            self._thread.start()
        self._objects = S3ObjectStore(s3_config(settings))
        stores = make_stores(settings, self._objects, ModalSignal())
        host = warm(settings, self._snapshot or engine_host(settings, engine_environment()))
        self._worker = worker_loop(settings, stores, host, prices=MODAL_USD_PER_S)
        self._run(self._worker.start())
        keep_secrets()
        logger.info("worker ready", extra={"seconds": round(time.monotonic() - began, 3)})

    def run_ticket(self) -> str | None:
        """The id of the job that was run. Whatever interrupts the caller gives the job back to the queue."""
        self._see_new_models()
        stored = self._run(self._worker.serve_one())
        return None if stored is None else stored.record.job_id

    def stop(self) -> None:
        self._run(self._worker.stop())
        self._run(self._objects.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _see_new_models(self) -> None:
        """As far as it can be: Modal refuses a reload while the engine has a model's file open."""
        try:
            self._reload_models()
        except Exception as error:  # the ticket's job may need none of them
            logger.info("models are those of before", extra={"reason": str(error)})

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        ended = threading.Event()
        future = asyncio.run_coroutine_threadsafe(_announced(work, ended), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            ended.wait(GIVE_BACK_S)
            raise


async def _announced(work: Coroutine[Any, Any, T], ended: threading.Event) -> T:
    try:
        return await work
    finally:
        ended.set()
