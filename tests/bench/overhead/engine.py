"""The engine for all measurements: the lite engine, or the configured ComfyUI."""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from infra.settings import EngineSettings
from tests.support.engines import EngineChoice, engine_choices
from tests.support.tcp_engine import tcp_engine


def chosen() -> EngineChoice:
    return engine_choices()[-1]


def up_environment(settings: EngineSettings) -> dict[str, str]:
    """Return the engine settings for `up`, which the environment of the tests lacks."""
    named = {
        "COMFYUI_DIR": settings.comfyui_dir,
        "COMFYUI_PYTHON": settings.comfyui_python,
        "COMFYUI_URL": settings.comfyui_url,
    }
    return {name: str(value) for name, value in named.items() if value is not None}


@asynccontextmanager
async def running_engine() -> AsyncIterator[tuple[str, Path]]:
    """Run a fresh engine on TCP, as other programs use it; yield its URL and the parent of its folders."""
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
        parent, url = Path(folder) / "engine", chosen().settings.comfyui_url
        with contextlib.nullcontext(url) if url is not None else tcp_engine(chosen(), parent) as running:
            yield running, parent
