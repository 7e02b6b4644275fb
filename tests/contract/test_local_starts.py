"""A worker's process on one's own machine whose engine does not start."""

import asyncio
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

import comfyui_modal
from infra.settings import Settings
from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.clock import SystemClock
from storage.pools.engine_starts import EngineStartStore, StartPolicy
from tests.support.environment import clean_environment

pytestmark = pytest.mark.anyio

ENGINE = "print('RuntimeError: no kernel image is available'); raise SystemExit(1)\n"


async def test_its_failed_starts_are_counted(tmp_path: Path, s3_config: S3Config, s3_objects: S3ObjectStore) -> None:
    """As on Modal: the reaper fails the jobs that wait for it, with the engine's last words."""
    config = s3_config
    (tmp_path / "main.py").write_text(ENGINE)
    settings = Settings(
        bucket=config.bucket,
        s3_endpoint=config.endpoint_url,
        s3_access_key=SecretStr(config.access_key or ""),
        s3_secret_key=SecretStr(config.secret_key or ""),
        s3_prefix=config.prefix,
        engine=str(tmp_path),
        engine_dir=tmp_path / "engine",
        isolation="off",
        process_name="worker-1",
    )
    process = await asyncio.create_subprocess_exec(
        *comfyui_modal.command("infra.local.processes", "worker"),
        env=clean_environment() | settings.environment(),
        stdin=subprocess.PIPE,  # whose end would stop it
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(120):
        said = (await process.stderr.read()).decode()
        assert await process.wait() == 1, said
    state = await EngineStartStore(s3_objects, SystemClock(), StartPolicy()).state("default")
    assert state.last is not None, said
    assert (state.failures, state.last.worker, state.last.log_tail) == (
        1,
        "worker-1",
        ("RuntimeError: no kernel image is available",),
    )
