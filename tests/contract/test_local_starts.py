"""A local worker process whose engine does not start."""

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


async def test_failed_starts_of_a_local_engine_are_counted(
    tmp_path: Path, s3_config: S3Config, s3_objects: S3ObjectStore
) -> None:
    """A failed start of a local engine is counted with its last log lines, as on Modal."""
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
        stdin=subprocess.PIPE,  # closing it would stop the worker
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(120):
        output = (await process.stderr.read()).decode()
        assert await process.wait() == 1, output
    state = await EngineStartStore(s3_objects, SystemClock(), StartPolicy()).state("default")
    assert state.last is not None, output
    assert (state.failures, state.last.worker, state.last.log_tail) == (
        1,
        "worker-1",
        ("RuntimeError: no kernel image is available",),
    )
