"""The last step of a deployment: publish the node classes of its engine, by which submissions are validated."""

import asyncio
from pathlib import Path

from infra.check_image import examine, packs_of, shipped_workflows
from infra.compose.stores import open_stores
from infra.compose.worker import engine_environment, engine_host
from infra.logs import configure_logging
from infra.settings import Settings
from storage.keys import DEFAULT_POOL
from storage.signal import MemorySignal


def publish_engine() -> list[str]:
    """Publish the engine's node classes for every pool. Return the problems of the shipped workflows, as sentences.

    The failed starts that the previous version counted are reset.
    """
    # This Modal function has no GPU.
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
                await stores.engine_starts.forget(pool)
        return list(report.problems)

    return asyncio.run(once())
