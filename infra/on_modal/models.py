"""What the Modal function of the models runs, on their volume."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra.compose.stores import open_stores
from infra.logs import configure_logging
from infra.models.folders import model_folder, perform
from infra.models.manifest import Model
from infra.models.progress import Step, streamed
from infra.settings import Settings
from storage.keys import DEFAULT_POOL
from storage.signal import MemorySignal


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
