"""The engine that everything is measured on: lite, or the ComfyUI that is configured."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from infra.settings import EngineSettings
from tests.support.engines import EngineChoice, engine_choices


def chosen() -> EngineChoice:
    return engine_choices()[-1]


def up_environment(settings: EngineSettings) -> dict[str, str]:
    """For `up`, which the tests' environment tells of no engine."""
    named = {
        "COMFYUI_DIR": settings.comfyui_dir,
        "COMFYUI_PYTHON": settings.comfyui_python,
        "COMFYUI_URL": settings.comfyui_url,
    }
    return {name: str(value) for name, value in named.items() if value is not None}


@asynccontextmanager
async def running_engine() -> AsyncIterator[tuple[str, Path]]:
    """A fresh engine: its URL, and the folder that holds its own (input, output, …)."""
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
        host = chosen().host(Path(folder) / "engine")
        await host.start()
        try:
            yield host.url, Path(folder) / "engine"
        finally:
            await host.stop()
