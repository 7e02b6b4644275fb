"""`Launcher`: a ticket requests a worker, and can be cancelled twice. The Modal launcher runs on a loopback plane."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.on_modal import APP_NAME
from storage.launcher import Launcher, MemoryLauncher
from tests.plane import Plane

ROOT = Path(__file__).parents[2]

PRELUDE = """
import asyncio, sys
from infra.on_modal.adapters import ModalLauncher
from infra.on_modal.adapters import ModalPools
from tests.contract.test_launcher import check_contract
launcher = ModalLauncher(ModalPools({}))
"""
CONTRACT = PRELUDE + "asyncio.run(check_contract(launcher))"
CANCEL = PRELUDE + "asyncio.run(launcher.cancel(sys.argv[1]))"


async def check_contract(launcher: Launcher) -> None:
    """The behaviour that every launcher shares."""
    assert await launcher.waiting("default") == 0
    first = await launcher.spawn("default")
    second = await launcher.spawn("default")
    assert first is not None
    assert second is not None
    assert first != second
    waiting = await launcher.waiting("default")
    assert waiting is not None
    await launcher.cancel(second)
    await launcher.cancel(second)
    await launcher.cancel("fc-0000000000000000000000")


@pytest.mark.anyio
async def test_the_memory_launcher_fulfils_the_contract() -> None:
    """The in-memory launcher fulfils the contract and counts its tickets."""
    launcher = MemoryLauncher()
    await check_contract(launcher)
    assert launcher.spawned == ["default", "default"]


@pytest.mark.soak("acceptance/test_modal_deploy.py::test_a_job_runs_in_a_container")
def test_the_modal_launcher_fulfils_the_contract(tmp_path: Path) -> None:
    """The Modal launcher, in its own process, fulfils the contract and can cancel a ticket whose result has expired."""
    with Plane(tmp_path) as plane:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MODAL_", "COMFYUI_"))}
        env |= plane.client_env()
        modal = str(Path(sys.executable).parent / "modal")
        for command in (
            [modal, "secret", "create", APP_NAME, "COMFYUI_MODAL_BUCKET=none"],
            [modal, "deploy", "-m", "infra.modal_app"],
            [sys.executable, "-c", CONTRACT],
        ):
            _run(command, env, plane)
        (ended,) = (call.id for call in plane.state.calls.values() if call.cancelled)
        plane.forget_ended_calls()
        assert ended not in plane.state.calls
        _run([sys.executable, "-c", CANCEL, ended], env, plane)
        assert dict(plane.missing) == {}


def _run(command: list[str], env: dict[str, str], plane: Plane) -> None:
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{plane.missing}"
