"""A warm engine has run a workflow before the first job, and a failing warm-up does no harm."""

import logging
from pathlib import Path
from typing import Any

import pytest

from infra.compose.worker import engine_environment, engine_host, warm
from infra.settings import Settings
from workers.comfy.execution import ExecutionPolicy
from workers.comfy.host import EngineHost
from workers.comfy.warm import WarmHost

pytestmark = pytest.mark.anyio


def _host(folder: Path) -> EngineHost:
    settings = Settings(bucket="tests", engine="lite", engine_dir=folder, lite_fault_nodes=True)
    return engine_host(settings, engine_environment())


def _fails(kind: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "LiteRaise", "inputs": {"image": ["1", 0], "kind": kind}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "warm"}},
    }


async def test_a_warm_up_leaves_no_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A warm-up leaves no output, and the durations of the start's phases are logged."""
    caplog.set_level(logging.INFO)
    host = WarmHost(_host(tmp_path), _fails("none"), ExecutionPolicy(), limit_s=60)
    await host.start()
    try:
        assert list((tmp_path / "output").iterdir()) == []
        assert list(host.start_phases) == ["engine", "warm_up"]
        assert all(seconds > 0 for seconds in host.start_phases.values())
    finally:
        await host.stop()
    phases = [record for record in caplog.records if record.message in ("engine ready", "engine warm")]
    assert [record.message for record in phases] == ["engine ready", "engine warm"]
    assert all(record.__dict__["seconds"] >= 0 for record in phases)


@pytest.mark.parametrize("kind", ["runtime", "crash"])
async def test_a_failed_warm_up_is_a_warning(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a failed warm-up, a working engine is ready and a warning is logged."""
    host = WarmHost(_host(tmp_path), _fails(kind), ExecutionPolicy(), limit_s=60)
    await host.start()
    try:
        assert host.is_alive()
        assert await host.engine.declarations()
    finally:
        await host.stop()
    assert "could not be warmed up" in caplog.text


async def test_a_warm_up_that_takes_too_long_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A warm-up that exceeds its limit is abandoned with a warning."""
    graph = _fails("none") | {"2": {"class_type": "LiteHang", "inputs": {"image": ["1", 0], "seconds": 3600.0}}}
    host = WarmHost(_host(tmp_path), graph, ExecutionPolicy(), limit_s=0.5)
    await host.start()
    await host.stop()
    assert "it took too long" in caplog.text


def test_the_setting_names_a_shipped_workflow(tmp_path: Path) -> None:
    """The setting accepts the name of a shipped workflow, and refuses another name with a list of the known names."""
    host = _host(tmp_path)
    assert warm(Settings(bucket="tests"), host) is host
    assert isinstance(warm(Settings(bucket="tests", warm_up="words"), host), WarmHost)
    with pytest.raises(ValueError, match=r"only sdxl, silence, .*words"):
        warm(Settings(bucket="tests", warm_up="nothing"), host)
