"""A graph that runs code in its engine breaks out of nothing: real processes, as root and as another user."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
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


def seen(command: Sequence[str]) -> dict[str, Any]:
    ended = subprocess.run(
        command,
        env=clean_environment() | {"THE_SECRET": "hush-hush", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "SEEN" in ended.stdout, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout.rpartition("SEEN")[2])
    return result


def captive(folder: Path) -> list[str]:
    return [sys.executable, "-m", "tests.support.captive", str(folder)]


def is_held(found: dict[str, Any]) -> None:
    """Nothing was got, nothing is left, and a usual job runs."""
    assert {name: got for name, got in found["got"].items() if got.startswith("GOT")} == {}
    assert found["link"] == "refused"
    assert found["left"] == {"daemon": False, "files": []}
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
