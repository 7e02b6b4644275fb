"""Entry point of the Modal function that manages the models' volume."""

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
    """Run a command of `ModelFolder` on the volume. Yield its steps, then `{"found": […]}` with one entry a model.

    Downloaded files are committed before submissions are checked against them.
    """
    settings = Settings()
    configure_logging("models", settings.log_level, settings.secret_values())
    here = model_folder(settings.huggingface_token, Path(folder))
    models = [Model.model_validate(model) for model in wanted]
    found = yield from streamed(lambda on_progress: perform(command, models, here, on_progress))
    commit()  # other containers see a volume's new files only after a commit

    async def announce() -> None:
        async with open_stores(settings, MemorySignal()) as stores:
            for pool in (DEFAULT_POOL, *settings.gpu_pools):
                await stores.engine_info.files_changed(pool)

    if any(one.state == "downloaded" for one in found):
        asyncio.run(announce())
    yield {"found": [asdict(one) for one in found]}
