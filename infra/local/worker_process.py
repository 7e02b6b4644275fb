"""The entry point of a local worker: `infra.local.worker_process`, supervised by `comfyui-modal up`."""

import sys

from infra.compose.worker import engine_environment, engine_host, warm, worker_loop
from infra.local.parent_watch import stop_with_parent
from infra.local.process import local_stores, run, say_ready
from infra.redaction import Redactor
from infra.settings import Settings
from storage.stores import Stores
from workers.comfy.host import EngineHost, RunningEngine
from workers.errors import EngineMisconfigured, EngineUnavailable
from workers.loop import WorkerLoop
from workers.starts import CountedStarts


async def serve(settings: Settings) -> int:
    stop = await stop_with_parent()
    async with local_stores(settings) as stores:
        engine = engine_host(settings, engine_environment())
        host = warm(settings, engine)
        worker = worker_loop(
            settings, stores, host, on_ready=lambda: say_ready(settings, engine_url=host.url, engine_pid=host.pid)
        )
        try:
            await _start(settings, stores, worker, engine)
            await worker.serve(stop)
        except EngineMisconfigured:
            raise
        except EngineUnavailable as error:
            sys.stderr.write(f"{error}\n")
            return 1
        finally:
            await worker.stop()
    return 0


async def _start(settings: Settings, stores: Stores, worker: WorkerLoop, host: EngineHost) -> None:
    """Start the worker, and count the start of its engine."""
    # Counted starts fail the jobs of an engine that cannot start. An engine by URL is only not reachable yet.
    if isinstance(host, RunningEngine):
        await worker.start()
        return
    hide = Redactor(settings.secret_values())
    starts = CountedStarts(
        stores.engine_starts, settings.pool, settings.process_name, lambda text: hide(host.paths.hidden(text))
    )
    await starts.run(worker.start)


if __name__ == "__main__":
    sys.exit(run(serve))
