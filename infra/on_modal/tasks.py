"""The bodies of the Modal functions that run once a call: reaper, deliverer, check of the image, models.

Each container runs one of them. What only one needs is imported in its function, so that the others start sooner.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.compose.stores import open_stores
from infra.logs import configure_logging
from infra.on_modal.adapters import ModalSignal, modal_launcher, with_public_url
from infra.settings import Settings
from storage.keys import DEFAULT_POOL
from storage.signal import OUTBOX_TOPIC, MemorySignal, Signal
from storage.stores import Stores

if TYPE_CHECKING:
    from infra.models.sync import Command

DELIVER_SWEEP_S = 240.0
"""No attempt starts later in a sweep. The time limit of a call exceeds two sweeps and their last attempts."""


def sweep() -> None:
    """Run one sweep of the reaper."""
    from infra.compose.reaper import reaper

    settings = _settings("reaper")

    async def once(stores: Stores) -> None:
        await reaper(settings, stores, modal_launcher(settings, stores)).sweep()

    _with_stores(settings, once, ModalSignal())


class SharedSweep:
    """Runs one sweep at a time for calls from several threads. `sweep` gets a signal that wakes it.

    So the bounds of a sweep hold for the container, and a call whose events wait for slow receivers does not occupy one
    of the few places for calls.
    """

    def __init__(self, sweep: Callable[[MemorySignal], Awaitable[None]]) -> None:
        self._sweep = sweep
        self._running = threading.Lock()
        self._is_next = threading.Lock()
        self._wake: Callable[[], object] = lambda: None

    def call(self) -> None:
        """Have everything delivered that was due before the call."""
        with suppress(RuntimeError):  # the sweep has ended meanwhile, and its event loop is closed
            self._wake()
        # One call waits for the end of the sweep, which may have listed for the last time before it was woken, and
        # begins the next. Any further call may end: the next sweep lists after it.
        if not self._is_next.acquire(blocking=False):
            return
        with self._running:
            self._is_next.release()
            asyncio.run(self._run())

    async def _run(self) -> None:
        loop, signal = asyncio.get_running_loop(), MemorySignal()
        self._wake = lambda: loop.call_soon_threadsafe(signal.ring, OUTBOX_TOPIC)
        await self._sweep(signal)


async def _deliver(signal: Signal) -> None:
    from infra.compose.deliverer import dispatcher, webhook_transport

    settings = with_public_url(_settings("deliverer"))
    async with open_stores(settings, signal) as stores:
        await dispatcher(settings, stores, webhook_transport(settings, stores)).sweep(longest_s=DELIVER_SWEEP_S)


_DELIVERIES = SharedSweep(_deliver)


def deliver_due() -> None:
    """Deliver every event that is due now."""
    _DELIVERIES.call()


def publish_engine() -> list[str]:
    """Publish the engine's node classes for every pool. Return the problems of the shipped workflows, as sentences.

    It is the last step of a deployment: submissions are validated by these classes. The failed starts that the previous
    version counted are reset.
    """
    from infra.check_image import examine, packs_of, shipped_workflows
    from infra.compose.worker import engine_environment, engine_host

    # This Modal function has no GPU.
    settings = _settings("check-image").model_copy(update={"comfyui_cpu": True})
    is_lite = settings.engine == "lite"
    packs = set() if is_lite else packs_of(Path(settings.engine))
    workflows = shipped_workflows(packs, has_models=not is_lite)
    report = asyncio.run(examine(engine_host(settings, engine_environment()), workflows))

    async def publish(stores: Stores) -> None:
        for pool in (DEFAULT_POOL, *settings.gpu_pools):
            await stores.engine_info.publish(pool, report.object_info)
            await stores.engine_starts.forget(pool)

    _with_stores(settings, publish)
    return list(report.problems)


def manage_models(
    command: "Command", wanted: list[dict[str, Any]], folder: str, commit: Callable[[], None] = lambda: None
) -> Iterator[Any]:
    """Run a command of `ModelFolder` on the volume. Yield its steps, then `{"found": […]}` with one entry a model.

    Downloaded files are committed before submissions are checked against them.
    """
    from infra.models.manifest import Model
    from infra.models.sync import model_folder, streamed

    settings = _settings("models")
    here = model_folder(settings.huggingface_token, Path(folder))
    models = [Model.model_validate(model) for model in wanted]
    found = yield from streamed(lambda on_progress: here.perform(command, models, on_progress))
    commit()  # other containers see a volume's new files only after a commit

    async def announce(stores: Stores) -> None:
        for pool in (DEFAULT_POOL, *settings.gpu_pools):
            await stores.engine_info.files_changed(pool)

    if any(one.state == "downloaded" for one in found):
        _with_stores(settings, announce)
    yield {"found": [asdict(one) for one in found]}


def _settings(process: str) -> Settings:
    """Return the settings of this container, after configuring its log."""
    settings = Settings()
    configure_logging(process, settings.log_level, settings.secret_values())
    return settings


def _with_stores(settings: Settings, work: Callable[[Stores], Awaitable[None]], signal: Signal | None = None) -> None:
    async def once() -> None:
        async with open_stores(settings, signal or MemorySignal()) as stores:
            await work(stores)

    asyncio.run(once())
