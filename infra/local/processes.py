"""The local processes: what all of them share, and the entry points of those without a server.

`comfyui-modal up` supervises them, and starts these as `infra.local.processes worker`, `reaper` and `deliverer`.
`comfyui-modal worker`, `reap` and `deliver` start one of them alone. Each imports its own parts only when it starts, so
that none loads what another needs. The API is `infra.local.api_process`.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

import comfyui_modal
from infra.compose.stores import open_stores
from infra.local.children import Readiness, announce, stop_on_signals, stop_with_parent
from infra.local.signal import open_local_signal
from infra.logs import configure_logging
from infra.memory import bound_malloc, keep_trimmed
from infra.secrecy import keep_secrets
from infra.settings import BadSetting, Settings, format_errors, unknown_variables
from storage.bucket.clock_skew import require_right_clock, warn_of_wrong_clock
from storage.bucket.s3 import S3Config
from storage.concurrency import in_background
from storage.errors import ClockWrong
from storage.launcher import NoLauncher
from storage.stores import Stores
from workers.errors import EngineMisconfigured, EngineUnavailable, WorkerDiskFull
from workflows.manifest import BadWorkflow

logger = logging.getLogger(__name__)


async def serve_worker(settings: Settings) -> int:
    from infra.compose.worker import counted_starts, engine_environment, engine_host, warm, worker_loop
    from workers.comfy.host import RunningEngine

    stop = await stop_requested(settings)
    async with local_stores(settings) as stores, in_background(keep_trimmed()):
        engine = engine_host(settings, engine_environment())
        host = warm(settings, engine)
        worker = worker_loop(
            settings, stores, host, on_ready=lambda: say_ready(settings, engine_url=host.url, engine_pid=host.pid)
        )
        try:
            # Counted starts fail the jobs of an engine that cannot start. An engine by URL is only not reachable yet.
            if isinstance(engine, RunningEngine):
                start = worker.start()
            else:
                start = counted_starts(settings, stores, engine).run(worker.start)
            await _with_right_clock(settings, stores, start)
            await worker.serve(stop)
        except EngineMisconfigured:
            raise  # `run` ends the process with MISCONFIGURED, so that `up` does not start it again
        except (EngineUnavailable, WorkerDiskFull) as error:
            sys.stderr.write(f"{error}\n")
            return 1
        finally:
            await worker.stop()
    return 0


async def _with_right_clock(settings: Settings, stores: Stores, start: Coroutine[Any, Any, None]) -> None:
    """Await the start of a worker. Raises `ClockWrong` instead if its jobs would look lost to other machines."""
    # The clock is checked meanwhile, because the bucket's first LIST loads its client for 0.2 s.
    starting = asyncio.create_task(start)
    try:
        await require_right_clock(stores.objects, stores.clock, settings.lease_s)
    except BaseException:
        starting.cancel()  # a counted start is withdrawn
        await asyncio.gather(starting, return_exceptions=True)
        raise
    await starting


async def serve_reaper(settings: Settings) -> None:
    from infra.compose.reaper import reaper

    stop = await stop_requested(settings)
    async with local_stores(settings) as stores:
        sweeper = reaper(settings, stores, NoLauncher())
        say_ready(settings)
        await warn_of_wrong_clock(stores.objects, stores.clock, settings.lease_s)
        while not stop.is_set():
            await sweeper.sweep()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.reap_interval_s):
                    await stop.wait()


async def serve_deliverer(settings: Settings) -> None:
    from infra.compose.deliverer import dispatcher, webhook_transport

    stop = await stop_requested(settings)
    async with local_stores(settings) as stores:
        deliverer = dispatcher(settings, stores, webhook_transport(settings, stores))
        say_ready(settings)
        async with in_background(warn_of_wrong_clock(stores.objects, stores.clock, settings.lease_s)):
            await deliverer.serve(stop)


def run(serve: Callable[[Settings], Coroutine[Any, Any, int | None]]) -> int:
    """Run `serve` and return its exit code, or `MISCONFIGURED` for an error that a restart would not change."""
    try:
        settings = begin()
    except (ValidationError, SettingsError) as fault:
        return comfyui_modal.refuse(format_errors(fault))
    try:
        return asyncio.run(serve(settings)) or 0
    except (BadSetting, BadWorkflow, ClockWrong, EngineMisconfigured) as fault:
        return comfyui_modal.refuse(str(fault))


def begin() -> Settings:
    """Read the settings of this process, configure its log and hide its secrets from other processes."""
    settings = Settings()
    configure_logging(settings.process_name, settings.log_level, settings.secret_values())
    warn_of_unknown_variables(settings, os.environ)
    keep_secrets()  # last, because it overwrites the variables from which the settings are read
    return settings


def warn_of_unknown_variables(settings: Settings, names: Iterable[str]) -> None:
    """Log each variable that looks like a setting and is none, unless `comfyui-modal up` has said so already."""
    for line in () if is_child(settings) else unknown_variables(names):
        logger.warning(line)


@asynccontextmanager
async def local_stores(settings: Settings, s3: S3Config | None = None) -> AsyncIterator[Stores]:
    """Open the stores with the signal that connects the processes of this machine."""
    async with open_local_signal(settings) as signal, open_stores(settings, signal, s3) as stores:
        yield stores


async def stop_requested(settings: Settings) -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set, and the end of `comfyui-modal up` if it started this process."""
    return await stop_with_parent() if is_child(settings) else stop_on_signals()


def is_child(settings: Settings) -> bool:
    """Return whether `comfyui-modal up` started this process. Its standard input is then the pipe of a supervisor."""
    return settings.readiness_file is not None


def say_ready(settings: Settings, *, engine_url: str | None = None, engine_pid: int | None = None) -> None:
    """Announce to `comfyui-modal up` that this process is ready, or log it if the process runs alone."""
    if settings.readiness_file is None:
        logger.info("ready")
        return
    announce(settings.readiness_file, Readiness(pid=os.getpid(), engine_url=engine_url, engine_pid=engine_pid))


_SERVED: dict[str, Callable[[Settings], Coroutine[Any, Any, int | None]]] = {
    "worker": serve_worker,
    "reaper": serve_reaper,
    "deliverer": serve_deliverer,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("process", choices=sorted(_SERVED))
    process = parser.parse_args().process
    bound_malloc()  # before the first thread, since existing arenas stay
    return run(_SERVED[process])


if __name__ == "__main__":
    sys.exit(main())
