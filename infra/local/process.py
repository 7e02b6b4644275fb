"""The common part of the local processes: start, stores and readiness."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

import comfyui_modal
from infra.compose.stores import open_stores
from infra.local.readiness import Readiness, announce
from infra.local.signal import open_local_signal
from infra.logs import configure_logging
from infra.secrecy import keep_secrets
from infra.settings import BadSetting, Settings, format_errors
from storage.bucket.s3 import S3Config
from storage.stores import Stores
from workers.errors import EngineMisconfigured
from workflows.manifest import BadWorkflow


def run(serve: Callable[[Settings], Coroutine[Any, Any, int | None]]) -> int:
    """Run `serve` and return its exit code, or `MISCONFIGURED` for an error that a restart would not change."""
    try:
        settings = begin()
    except (ValidationError, SettingsError) as fault:
        return comfyui_modal.refuse(format_errors(fault))
    try:
        return asyncio.run(serve(settings)) or 0
    except (BadSetting, BadWorkflow, EngineMisconfigured) as fault:
        return comfyui_modal.refuse(str(fault))


def begin() -> Settings:
    """Read the settings of this process, configure its log and hide its secrets from other processes."""
    settings = Settings()
    configure_logging(settings.process_name, settings.log_level, settings.secret_values())
    keep_secrets()
    return settings


@asynccontextmanager
async def local_stores(settings: Settings, s3: S3Config | None = None) -> AsyncIterator[Stores]:
    """Open the stores with the signal that connects the processes of this machine."""
    async with open_local_signal(settings) as signal, open_stores(settings, signal, s3) as stores:
        yield stores


def say_ready(settings: Settings, *, engine_url: str | None = None, engine_pid: int | None = None) -> None:
    """Announce to `comfyui-modal up` that this process is ready, if it was started by it."""
    if settings.presence is not None:
        announce(settings.presence, Readiness(pid=os.getpid(), engine_url=engine_url, engine_pid=engine_pid))
