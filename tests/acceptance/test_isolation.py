"""A graph that runs code in its engine breaks out of nothing: real processes, as root and as another user."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.environment import clean_environment
from tests.support.reachable import is_possible, reachable
from workers.confine import landlock_abi

SOMEBODY = 64_900
SIGNALS_SINCE = 6
"""Landlock's ABI that keeps signals in."""

needs_root = pytest.mark.skipif(not is_possible(), reason="only root can start processes of other users")
needs_landlock = pytest.mark.skipif(landlock_abi() < SIGNALS_SINCE, reason="this kernel's Landlock is too old")


@pytest.fixture
def folder() -> Iterator[Path]:
    """That every user can reach, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="comfyui-modal-captive-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=clean_environment() | {"THE_SECRET": "hush-hush", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def seen(command: Sequence[str]) -> dict[str, Any]:
    ended = run(command)
    assert "SEEN" in ended.stdout, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout.rpartition("SEEN")[2])
    return result


def captive(folder: Path) -> list[str]:
    return [sys.executable, "-m", "tests.support.captive", str(folder)]


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")


def without_landlock(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "tests.support.without_landlock", *command]


def is_held(found: dict[str, Any], *, may: Collection[str] = ()) -> None:
    """Nothing else was got, nothing is left, and a usual job runs."""
    assert {name for name, got in found["got"].items() if got.startswith("GOT")} == set(may)
    assert found["link"] == "refused"
    has_own_user = found["isolation"].startswith("user 64")
    assert found["left"] == {"daemon": False, "files": [], "shared memory": not has_own_user}
    assert found["usual"]


@needs_root
def test_the_engine_of_roots_worker_is_another_user(folder: Path) -> None:
    """It has a number that no other engine has, and Landlock where the kernel has it."""
    found = seen(reachable(captive(folder)))
    assert found["isolation"].startswith("user 64")
    is_held(found)


@needs_landlock
@needs_root
def test_the_engine_of_a_users_worker_is_held_by_landlock(folder: Path) -> None:
    """Both have the same user."""
    os.chown(folder, SOMEBODY, SOMEBODY)
    found = seen(reachable(captive(folder), user=SOMEBODY))
    assert found["isolation"].startswith("Landlock ABI")
    is_held(found)


@needs_landlock
def test_an_engine_that_its_own_user_could_not_reach_is_held_by_landlock(folder: Path) -> None:
    """Root's engine stays root then, but reads and writes no more than another; or nobody is root here at all."""
    folder.chmod(0o700)
    found = seen(captive(folder))
    assert found["isolation"].startswith("Landlock ABI")
    assert "no user of its own" in found["isolation"]
    is_held(found)


@needs_linux
def test_an_engine_that_cannot_be_isolated_does_not_start_where_that_is_required(folder: Path) -> None:
    """The kernel has no Landlock, and no other user reaches the engine's folder, or the worker is not root."""
    folder.chmod(0o700)
    ended = run(without_landlock(captive(folder)))
    assert ended.returncode != 0
    assert (
        "COMFYUI_MODAL_ISOLATION=required, but the engine cannot be isolated here: no user of its own" in ended.stderr
    )
    assert "this kernel has no Landlock. Run the worker as root" in ended.stderr
    assert "SEEN" not in ended.stdout


@needs_root
def test_without_landlock_a_user_of_its_own_is_enough(folder: Path) -> None:
    """As in Modal's gVisor: `required` is met, and what was written where every user may write is removed."""
    found = seen(reachable(without_landlock(captive(folder))))
    assert found["isolation"].startswith("user 64")
    assert "this kernel has no Landlock" in found["isolation"]
    is_held(found, may=["system's temp folder"])
    assert not Path("/var/tmp/planted").exists()  # noqa: S108  as the attack calls it
