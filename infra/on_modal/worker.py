"""What Modal's containers with a GPU run."""

import asyncio
import logging
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from infra.compose.stores import make_stores, s3_config
from infra.compose.worker import (
    engine_environment,
    engine_host,
    engine_spec,
    warm,
    warm_up_graph,
    worker_loop,
)
from infra.gpu_prices import MODAL_USD_PER_S
from infra.image import MODELS
from infra.logs import configure_logging
from infra.on_modal.signal import ModalSignal
from infra.on_modal.watched_snapshot import watched_snapshot
from infra.redaction import Redactor
from infra.secrecy import keep_secrets
from infra.settings import BadSetting, Settings
from storage.bucket.s3 import S3ObjectStore
from storage.pools.engine_starts import EngineStartStore
from storage.stores import Stores
from workers.attention_memory import AttentionMemory
from workers.comfy.host import EngineHost
from workers.comfy.snapshot import SnapshotHost
from workers.comfy.warm import WarmHost
from workers.errors import EngineUnavailable
from workers.loop import WorkerLoop
from workers.read_ahead import ReadAhead, expected_values, graph_values
from workers.starts import CountedStarts

T = TypeVar("T")

logger = logging.getLogger(__name__)

IMAGE_VARIABLE = "MODAL_IMAGE_ID"
"""Modal's own: which image a container runs."""
GIVE_BACK_S = 20.0
"""How long an interrupted ticket may take to give its job back: Modal's grace is 30 s, the engine's stop included."""


class TicketWorker:
    """A worker whose callers are threads: its event loop runs on between tickets, and keeps the engine watched.

    `prepare` comes before a container's snapshot, if it is to have one, `start` after it, or at once. What is to
    differ between containers (connections, names) begins with `start`. `reload_models` makes visible what was
    downloaded since the container has mounted the models.

    Neither raises for the engine's sake. Modal starts another container when a hook fails, and another, without end;
    a ticket that fails is over.
    """

    def __init__(self, pool: str, reload_models: Callable[[], None] = lambda: None) -> None:
        self.is_broken = False
        """Whether the container is of no more use."""
        self._pool = pool
        self._reload_models = reload_models
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="worker", daemon=True)
        self._prepared: EngineHost | None = None
        self._memory: AttentionMemory | None = None
        self._reading: asyncio.Task[None] | None = None
        self._worker: WorkerLoop | None = None
        self._problem: EngineUnavailable | None = None

    def prepare(self, *, is_on_gpu: bool) -> None:
        """The engine is started, for a snapshot of it. `is_on_gpu`: the snapshot holds the GPU's memory too."""
        settings = self._settings()
        self._thread.start()
        if settings.engine_dir is None:  # one folder, for the engine before the snapshot and for the one after it
            folder = Path(tempfile.mkdtemp(prefix="comfyui-modal-engine-"))
            settings = settings.model_copy(update={"engine_dir": folder})
        snapshot = SnapshotHost(lambda: engine_spec(settings, engine_environment(), self._memory), is_on_gpu=is_on_gpu)
        self._prepared = snapshot
        self._run(self._prepare(settings, snapshot))

    async def _prepare(self, settings: Settings, snapshot: SnapshotHost) -> None:
        """Where the GPU's memory is in the snapshot as well, the models that the warm-up loads are, too."""
        async with watched_snapshot(self._pool):
            await snapshot.prepare()
            if not snapshot.is_on_gpu or not snapshot.is_alive():
                return
            try:
                self._prepared = warm(settings, snapshot)
                if isinstance(self._prepared, WarmHost):
                    await self._prepared.warm_up()
            except (BadSetting, EngineUnavailable) as error:
                logger.warning("nothing warm is in the snapshot: %s", error)

    def start(self) -> None:
        """The engine is ready when this returns, or each ticket is told why not. The log tells what took how long."""
        began = time.monotonic()
        random.seed()  # containers that share a snapshot share its state
        settings = self._settings()
        if not self._thread.is_alive():
            self._thread.start()
        self._objects = S3ObjectStore(s3_config(settings))
        stores = make_stores(settings, self._objects, ModalSignal())
        if (image := os.environ.get(IMAGE_VARIABLE)) is not None:
            self._memory = AttentionMemory(stores.attention, self._pool, image)
        host = self._prepared or engine_host(settings, engine_environment(), self._memory)
        self._starts = self._counted_starts(settings, stores.engine_starts, host)
        self._start_worker = lambda: self._started(settings, stores, host)
        try:
            self._run(self._begin())
            logger.info("worker ready", extra={"seconds": round(time.monotonic() - began, 3)})
        except EngineUnavailable as problem:
            logger.warning("worker not ready: %s", problem)
        finally:
            keep_secrets()

    async def _begin(self) -> None:
        """`EngineUnavailable`. While the pool's engine counts as broken nothing is started, and this container answers
        the tickets that wait: each of them would start a container of its own otherwise."""
        if self.is_broken and self._problem is not None:
            raise self._problem
        await self._starts.check()
        try:
            await self._starts.run(self._start_worker)
        except EngineUnavailable as problem:
            self.is_broken, self._problem = True, problem
            raise

    async def _started(self, settings: Settings, stores: Stores, host: EngineHost) -> None:
        host = host if isinstance(host, WarmHost) else warm(settings, host)
        worker = worker_loop(settings, stores, host, prices=MODAL_USD_PER_S)
        self._reading = asyncio.create_task(self._read_ahead(settings, stores))
        try:
            await worker.start()
        except BaseException:
            await worker.stop()
            raise
        self._worker = worker

    async def _read_ahead(self, settings: Settings, stores: Stores) -> None:
        """The models of the job that most likely comes first, else of the warm-up."""
        if not settings.read_ahead:
            return
        values = await expected_values(stores.queue, stores.jobs, self._pool)
        folders = [Path(MODELS), Path(settings.engine) / "models"]
        await ReadAhead(folders).run(values or graph_values(warm_up_graph(settings) or {}))

    def run_ticket(self) -> str | None:
        """The id of the job that was run. Whatever interrupts the caller gives the job back to the queue.

        `EngineUnavailable`: no job was taken.
        """
        if self._worker is None:
            self._run(self._begin())
        assert self._worker is not None  # noqa: S101  or `_begin` has raised
        self._see_new_models()
        try:
            stored = self._run(self._worker.serve_one())
        except EngineUnavailable:
            self.is_broken = True
            raise
        return None if stored is None else stored.record.job_id

    def stop(self) -> None:
        self._run(self._stop_reading())
        if self._worker is not None:
            self._run(self._worker.stop())
        self._run(self._objects.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _settings(self) -> Settings:
        """Those of this container and pool; its log knows its name, and none of the secrets."""
        settings = Settings()
        name = os.environ.get("MODAL_TASK_ID", settings.process_name)
        configure_logging(name, settings.log_level, settings.secret_values())
        return settings.model_copy(update={"process_name": name, "pool": self._pool})

    def _counted_starts(self, settings: Settings, starts: EngineStartStore, host: EngineHost) -> CountedStarts:
        hide = Redactor(settings.secret_values())
        return CountedStarts(starts, self._pool, settings.process_name, lambda text: hide(host.paths.hidden(text)))

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
