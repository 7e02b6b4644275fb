"""The engine that everything is measured on: lite, or the ComfyUI that is configured."""

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
    """For `up`, which the tests' environment tells of no engine."""
    named = {
        "COMFYUI_DIR": settings.comfyui_dir,
        "COMFYUI_PYTHON": settings.comfyui_python,
        "COMFYUI_URL": settings.comfyui_url,
    }
    return {name: str(value) for name, value in named.items() if value is not None}


@asynccontextmanager
async def running_engine() -> AsyncIterator[tuple[str, Path]]:
    """A fresh engine on TCP, as other programs drive it: its URL, and the parent of its own folders."""
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
        parent, url = Path(folder) / "engine", chosen().settings.comfyui_url
        with contextlib.nullcontext(url) if url is not None else tcp_engine(chosen(), parent) as running:
            yield running, parent
