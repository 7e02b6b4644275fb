"""An engine that was started before its container's snapshot, and its behaviour after the restore."""

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from infra.compose.worker import engine_environment
from infra.settings import EngineSettings
from tests.support.engines import saved
from workers.attention import EngineAttention
from workers.comfy.execution import ExecutionPolicy
from workers.comfy.snapshot import SnapshotHost, pretending
from workers.comfy.spec import EngineFolders, EngineSpec
from workers.comfy.warm import WarmHost
from workers.errors import EngineUnavailable
from workers.isolation import IsolationPolicy

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


def _spec(folder: Path, device: str) -> EngineSpec:
    folders = EngineFolders(folder)
    command = [sys.executable, "-m", "tests.support.restorable_engine", device, *folders.flags()]
    return EngineSpec(command, ROOT, folders, engine_environment(), 60.0)


@asynccontextmanager
async def restored(spec: EngineSpec, *, is_on_gpu: bool = False) -> AsyncIterator[tuple[SnapshotHost, int | None]]:
    """The host after the restore, and the id of the process that it had before."""
    host = SnapshotHost(lambda: spec, is_on_gpu=is_on_gpu)
    try:
        await host.prepare()
        before = host.pid
        await host.start()
        yield host, before
    finally:
        await host.stop()


async def test_an_engine_continues_where_it_finds_a_gpu(tmp_path: Path) -> None:
    """An engine that was started with a pretended GPU continues in the same process if it finds a GPU."""
    async with restored(_spec(tmp_path, "cuda")) as (host, before):
        assert before is not None
        assert host.pid == before
        assert await host.engine.object_info()


async def test_an_engine_continues_with_the_memory_of_its_gpu(tmp_path: Path) -> None:
    """An engine whose GPU memory is in the snapshot continues without further checks."""
    spec = EngineSpec.lite(folders=EngineFolders(tmp_path), environment=engine_environment())
    async with restored(spec, is_on_gpu=True) as (host, before):
        assert host.pid == before


@pytest.mark.parametrize("device", ["cpu", "none"])
async def test_a_fresh_engine_replaces_one_that_cannot_continue(
    device: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A fresh engine starts, with a warning, if the restored engine finds no GPU or cannot be restored."""
    spec = _spec(tmp_path, device)
    if device == "none":
        spec = EngineSpec.lite(folders=EngineFolders(tmp_path), environment=engine_environment())
    async with restored(spec) as (host, before):
        assert host.pid not in (None, before)
        assert await host.engine.object_info()
    assert "a fresh one starts" in caplog.text


async def test_a_fresh_engine_starts_for_another_attention(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A single probe after the restore decides on the attention, and a wrong guess causes a fresh start."""
    python = tmp_path / "venv" / "bin" / "python"
    package = tmp_path / "venv" / "lib" / "python3.12" / "site-packages" / "sageattention"
    for folder in (python.parent, package):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    python.write_text(f"#!/bin/sh\necho ran >> {tmp_path}/probes\necho '{{}}'\n")
    python.chmod(0o755)
    attention = EngineAttention(str(python), engine_environment())
    spec = replace(_spec(tmp_path / "engine", "cuda"), attention=attention, isolation=IsolationPolicy("off"))
    async with restored(spec) as (host, before):
        assert host.pid not in (None, before)
        assert host.attention.backend == "sdpa"
    assert "its attention is not sdpa" in caplog.text
    assert (tmp_path / "probes").read_text() == "ran\n"


async def test_the_fresh_engine_is_specified_after_the_restore(tmp_path: Path) -> None:
    """The fresh engine's specification is made after the restore, because no GPU is visible before."""
    seen: list[str] = []

    def spec() -> EngineSpec:
        seen.append("called")
        return _spec(tmp_path, "cpu")

    host = SnapshotHost(spec, is_on_gpu=False)
    try:
        await host.prepare()
        calls_before = len(seen)
        await host.start()
        assert len(seen) > calls_before
    finally:
        await host.stop()


async def test_an_engine_that_died_in_the_snapshot_is_replaced(tmp_path: Path) -> None:
    """A fresh engine replaces an engine that died in the snapshot."""
    host = SnapshotHost(lambda: _spec(tmp_path, "cuda"), is_on_gpu=False)
    await host.prepare()
    await host._host.stop()
    try:
        await host.start()
        assert host.is_alive()
    finally:
        await host.stop()


async def test_an_engine_that_does_not_start_is_not_in_the_snapshot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A snapshot is taken without an engine that does not start, and the later start reports the reason."""
    spec = replace(_spec(tmp_path, "cuda"), command=[sys.executable, "-c", "raise SystemExit('no')"])
    host = SnapshotHost(lambda: spec, is_on_gpu=False)
    await host.prepare()
    assert "nothing of the engine is in the snapshot" in caplog.text
    with pytest.raises(EngineUnavailable):
        await host.start()


def test_an_engine_with_a_pretended_gpu_has_its_own_options(tmp_path: Path) -> None:
    """An engine with a pretended GPU starts without --cpu, with the likely attention and a variable that says so."""
    package = tmp_path / "venv" / "lib" / "python3.12" / "site-packages" / "sageattention"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    python = tmp_path / "venv" / "bin" / "python"
    spec = EngineSpec.comfyui(tmp_path, python=python, folders=EngineFolders(tmp_path / "w"), cpu=True)
    pretended = pretending(spec)
    assert "--cpu" not in pretended.command
    assert "--use-sage-attention" in pretended.command
    assert pretended.environment["COMFYUI_MODAL_PRETEND_GPU"] == "1"
    (package / "__init__.py").unlink()
    assert "--use-pytorch-cross-attention" in pretending(spec).command


async def test_a_real_comfyui_starts_with_a_pretended_gpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A real ComfyUI, where COMFYUI_DIR names one, starts with a pretended GPU and is replaced without a real one."""
    caplog.set_level(logging.INFO)
    settings = EngineSettings()
    if settings.comfyui_dir is None:
        return  # the tests above cover the case without ComfyUI
    spec = EngineSpec.comfyui(
        settings.comfyui_dir,
        python=settings.comfyui_python,
        folders=EngineFolders(tmp_path),
        cpu=True,
        environment=engine_environment(),
        attention="sdpa",
    )
    async with restored(spec) as (host, before):
        assert before is not None, caplog.text
        assert host.is_alive()
        assert await host.engine.object_info()


async def test_an_engine_that_is_warm_in_the_snapshot_is_not_warmed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine whose GPU memory is in the snapshot is not warmed again, and a fresh engine after it is."""
    caplog.set_level(logging.INFO)
    spec = EngineSpec.lite(folders=EngineFolders(tmp_path), environment=engine_environment())
    snapshot = SnapshotHost(lambda: spec, is_on_gpu=True)
    host = WarmHost(snapshot, saved("warm"), ExecutionPolicy(), limit_s=60)
    try:
        await snapshot.prepare()
        await host.warm_up()
        await host.start()
        assert caplog.text.count("engine warm") == 1
        assert list(host.start_phases) == ["restore"]
        await host.restart()
        assert caplog.text.count("engine warm") == 2
    finally:
        await host.stop()
