"""A local worker: `infra.local.worker_process`, started and watched by `comfyui-modal up`."""

import sys

from infra.compose.worker import engine_environment, engine_host, warm, worker_loop
from infra.local.lifeline import stop_with_parent
from infra.local.process import local_stores, run, say_ready
from infra.settings import Settings
from workers.errors import EngineMisconfigured, EngineUnavailable


async def serve(settings: Settings) -> int:
    stop = await stop_with_parent()
    async with local_stores(settings) as stores:
        host = warm(settings, engine_host(settings, engine_environment()))
        worker = worker_loop(
            settings, stores, host, on_ready=lambda: say_ready(settings, engine_url=host.url, engine_pid=host.pid)
        )
        try:
            await worker.start()
            await worker.serve(stop)
        except EngineMisconfigured:
            raise
        except EngineUnavailable as error:
            sys.stderr.write(f"{error}\n")
            return 1
        finally:
            await worker.stop()
    return 0


if __name__ == "__main__":
    sys.exit(run(serve))
