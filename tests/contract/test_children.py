"""Child processes are restarted after a crash, and stay down when they cannot start."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

import comfyui_modal
from infra.local.children import Child, ChildSpec
from tests.support.environment import MEASURED, clean_environment
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

ENVIRONMENT = {"PATH": os.defpath} | MEASURED
TIME_LIMIT_S = 60


def child(tmp_path: Path, module: str, *arguments: str) -> Child:
    return Child(ChildSpec("child", module, arguments, ENVIRONMENT, tmp_path / "log"))


async def test_a_child_without_its_settings_is_not_restarted(tmp_path: Path) -> None:
    """A child that lacks a setting stays down, with its last output as the reason."""
    refused = child(tmp_path, "infra.local.processes", "reaper")
    refused.start()
    await until(lambda: refused.refused, TIME_LIMIT_S)
    assert refused.refused == "COMFYUI_MODAL_BUCKET: Field required"
    assert refused.pid is None
    await refused.stop(1)


async def test_a_killed_child_is_restarted(tmp_path: Path) -> None:
    """A child that was killed is started again."""
    waiting = child(tmp_path, "tests.support.waits")
    waiting.start()
    await until(lambda: waiting.pid, TIME_LIMIT_S)
    first = waiting.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: waiting.pid not in (first, None), TIME_LIMIT_S)
    assert waiting.refused is None
    await waiting.stop(1)


def test_a_missing_module_is_a_configuration_error() -> None:
    """The exit code marks the error as permanent, and the message names the module."""
    done = subprocess.run(
        comfyui_modal.command("infra.not_there"),
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == comfyui_modal.MISCONFIGURED
    assert "cannot start: No module named infra.not_there" in done.stderr
