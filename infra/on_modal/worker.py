"""The worker of a Modal container with a GPU."""

import asyncio
import logging
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from modal.exception import InputCancellation

from infra.compose.stores import make_stores, s3_config
from infra.compose.worker import (
    counted_starts,
    engine_environment,
    engine_host,
    engine_spec,
    warm,
    warm_up_graph,
    worker_loop,
)
from infra.gpus import MODAL_USD_PER_S
from infra.image import MODELS
from infra.logs import configure_logging
from infra.memory import bound_malloc
from infra.on_modal.adapters import ModalSignal, modal_launcher
from infra.on_modal.watched_snapshot import watched_snapshot
from infra.secrecy import keep_secrets
from infra.settings import BadSetting, Settings
from storage.bucket.clock_skew import require_right_clock
from storage.bucket.s3 import S3ObjectStore
from storage.concurrency import both
from storage.errors import ClockWrong
from storage.stores import Stores
from storage.tickets import Tickets
from workers.attention_memory import AttentionMemory
from workers.comfy.host import EngineHost
from workers.comfy.snapshot import SnapshotHost
from workers.comfy.warm import WarmHost
from workers.drain import Drain
from workers.errors import EngineUnavailable, WorkerDiskFull
from workers.loop import WorkerLoop
from workers.read_ahead import ReadAhead, expected_values, graph_values

T = TypeVar("T")

logger = logging.getLogger(__name__)

IMAGE_VARIABLE = "MODAL_IMAGE_ID"
"""The variable in which Modal gives the id of a container's image."""
GIVE_BACK_S = 20.0
"""Time for an interrupted ticket to release its job. Modal grants 30 s, which include the engine's stop."""


class TicketWorker:
    """A worker that is called from threads. Its event loop runs between tickets too, to supervise the engine.

    `prepare` runs before a container's snapshot, if there is one, and `start` after it. Whatever must differ between
    containers (connections, names) is created in `start`. `reload_models` makes models visible that were downloaded
    after the container mounted their volume. A ticket begins no further job after `ticket_s` seconds.

    `prepare` and `start` never raise because of the engine.
    """

    def __init__(self, pool: str, reload_models: Callable[[], None] = lambda: None, *, ticket_s: float) -> None:
        bound_malloc()  # before the first thread, since existing arenas stay
        self.is_broken = False
        """Whether this container must be replaced."""
        self._pool = pool
        self._reload_models = reload_models
        self._ticket_s = ticket_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="worker", daemon=True)
        self._prepared: EngineHost | None = None
        self._memory: AttentionMemory | None = None
        self._reading: asyncio.Task[None] | None = None
        self._worker: WorkerLoop | None = None
        self._problem: EngineUnavailable | WorkerDiskFull | None = None

    def prepare(self, *, is_on_gpu: bool) -> None:
        """Start the engine for a snapshot. `is_on_gpu` means that the snapshot includes the GPU's memory."""
        settings = self._settings()
        self._thread.start()
        if settings.engine_dir is None:  # the engine after the snapshot must find the folder of the one before it
            folder = Path(tempfile.mkdtemp(prefix="comfyui-modal-engine-"))
            settings = settings.model_copy(update={"engine_dir": folder})
        snapshot = SnapshotHost(lambda: engine_spec(settings, engine_environment(), self._memory), is_on_gpu=is_on_gpu)
        self._prepared = snapshot
        self._run(self._prepare(settings, snapshot))

    async def _prepare(self, settings: Settings, snapshot: SnapshotHost) -> None:
        """Start the engine. If the snapshot includes the GPU's memory, run the warm-up so that it holds the models."""
        async with watched_snapshot(self._pool):
            await snapshot.prepare()
            if not snapshot.is_on_gpu or not snapshot.is_alive():
                return
            try:
                self._prepared = warm(settings, snapshot)
                if isinstance(self._prepared, WarmHost):
                    await self._prepared.warm_up()
            except (BadSetting, EngineUnavailable, WorkerDiskFull) as error:
                logger.warning("nothing warm is in the snapshot: %s", error)

    def start(self) -> None:
        """Start the worker. If its engine does not start, every later ticket fails with the reason."""
        began = time.monotonic()
        random.seed()  # containers that share a snapshot share its random state
        settings = self._settings()
        if not self._thread.is_alive():
            self._thread.start()
        self._objects = S3ObjectStore(s3_config(settings))
        stores = make_stores(settings, self._objects, ModalSignal())
        if (image := os.environ.get(IMAGE_VARIABLE)) is not None:
            self._memory = AttentionMemory(stores.attention, self._pool, image)
        self._tickets = Tickets(modal_launcher(settings, stores), stores.objects)
        host = self._prepared or engine_host(settings, engine_environment(), self._memory)
        self._starts = counted_starts(settings, stores, host)
        self._require_clock = partial(require_right_clock, stores.objects, stores.clock, settings.lease_s)
        self._start_worker = lambda: self._started(settings, stores, host)
        try:
            self._run(self._begin())
            logger.info("worker ready", extra={"seconds": round(time.monotonic() - began, 3)})
        except (EngineUnavailable, WorkerDiskFull) as problem:
            # Not raised: Modal would replace a container whose hook fails without end; a ticket that fails is over.
            logger.warning("worker not ready: %s", problem)
        finally:
            # After every setting has been read, and also if the engine did not start.
            keep_secrets()

    async def _begin(self) -> None:
        """Start the engine, or raise `EngineUnavailable` or `WorkerDiskFull`."""
        # The start of this container has failed before: it fails this ticket with the reason, and takes no other.
        if self.is_broken and self._problem is not None:
            raise self._problem
        # During a pause this container fails the waiting tickets. If it ended, each would start a container of its own.
        await both(self._starts.check(), self._check_clock())
        try:
            await self._starts.run(self._start_worker)
        except (EngineUnavailable, WorkerDiskFull) as problem:
            self.is_broken, self._problem = True, problem
            raise

    async def _check_clock(self) -> None:
        """Raise `EngineUnavailable` if this machine's clock is wrong: its jobs would look lost to the reaper."""
        try:
            await self._require_clock()
        except ClockWrong as error:
            self.is_broken, self._problem = True, EngineUnavailable(str(error))
            raise self._problem from None

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
        """Read the models of the job that is likely to run first, or of the warm-up, into the page cache."""
        if not settings.read_ahead:
            return
        values = await expected_values(stores.queue, stores.jobs, self._pool)
        folders = [Path(MODELS), Path(settings.engine) / "models"]
        await ReadAhead(folders).run(values or graph_values(warm_up_graph(settings) or {}))

    def run_ticket(self, ticket: str | None = None, *, is_single: bool = False) -> int:
        """Run queued jobs, at most one if `is_single`, and return their number. `ticket` is the id of its call.

        An interruption of the caller releases the running job to the queue. After `EngineUnavailable` and
        `WorkerDiskFull` none is claimed: a new container has another engine, and an empty disk.
        """
        if self._worker is None:
            self._run(self._begin())
        assert self._worker is not None  # noqa: S101  or `_begin` has raised
        limit_s = 0.0 if is_single else self._ticket_s
        drain = Drain(self._worker, self._tickets, self._pool, limit_s=limit_s, before_claim=self._see_new_models)
        try:
            return self._run(drain.run(ticket), on_withdrawn=drain.end_soon)
        except (EngineUnavailable, WorkerDiskFull):
            self.is_broken = True
            raise

    def stop(self) -> None:
        """Stop the engine and the event loop, and close the connections."""
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
        """Return the settings of this container and pool, after configuring its log."""
        settings = Settings()
        name = os.environ.get("MODAL_TASK_ID", settings.process_name)
        configure_logging(name, settings.log_level, settings.secret_values())
        return settings.model_copy(update={"process_name": name, "pool": self._pool})

    async def _see_new_models(self) -> None:
        """Reload the models' volume, if possible."""
        # Modal refuses a reload while the engine has a file of the volume open, and the job may need no new model.
        try:
            await asyncio.to_thread(self._reload_models)
        except Exception as error:
            logger.info("models are those of before", extra={"reason": str(error)})

    def _run(self, work: Coroutine[Any, Any, T], on_withdrawn: Callable[[], None] | None = None) -> T:
        """Run a coroutine on the event loop. If `on_withdrawn` is given, it goes on when Modal cancels the call."""
        ended = threading.Event()
        future = asyncio.run_coroutine_threadsafe(_announced(work, ended), self._loop)
        while True:
            try:
                return future.result()
            # Modal interrupts the thread with an exception. The coroutine must first release its job to the queue.
            except BaseException as interruption:
                # A ticket that is withdrawn just as it is taken has a job whose client still waits for it.
                if isinstance(interruption, InputCancellation) and on_withdrawn is not None:
                    on_withdrawn()
                    continue
                future.cancel()
                ended.wait(GIVE_BACK_S)
                raise


async def _announced(work: Coroutine[Any, Any, T], ended: threading.Event) -> T:
    """Await `work`, and set `ended` after its cleanup: a cancelled future ends before that."""
    try:
        return await work
    finally:
        ended.set()
