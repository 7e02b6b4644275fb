"""A graph that runs code in its engine cannot break out: real processes, as root and as another user."""

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

OTHER_USER = 64_900
SIGNALS_SINCE = 6
"""The first Landlock ABI that restricts signals."""

needs_root = pytest.mark.skipif(not is_possible(), reason="only root can start processes of other users")
needs_landlock = pytest.mark.skipif(landlock_abi() < SIGNALS_SINCE, reason="this kernel's Landlock is too old")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's."""
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


def report_of(command: Sequence[str]) -> dict[str, Any]:
    ended = run(command)
    assert "SEEN" in ended.stdout, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout.rpartition("SEEN")[2])
    return result


def captive(folder: Path) -> list[str]:
    return [sys.executable, "-m", "tests.support.captive", str(folder)]


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")


def without_landlock(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "tests.support.without_landlock", *command]


def check_confinement(found: dict[str, Any], *, allowed: Collection[str] = ()) -> None:
    """Checks that the attack got only what `allowed` lists, left nothing behind, and that an ordinary job runs."""
    assert {name for name, got in found["got"].items() if got.startswith("GOT")} == set(allowed)
    assert found["link"] == "refused"
    has_own_user = found["isolation"].startswith("user 64")
    assert found["left"] == {"daemon": False, "files": [], "shared memory": not has_own_user}
    assert found["file of others"]
    assert found["usual"]


@needs_root
def test_the_engine_of_roots_worker_has_its_own_user(folder: Path) -> None:
    """The engine of root's worker has a user id of its own, and Landlock where the kernel supports it."""
    found = report_of(reachable(captive(folder)))
    assert found["isolation"].startswith("user 64")
    check_confinement(found)


@needs_landlock
@needs_root
def test_the_engine_of_a_users_worker_is_confined_by_landlock(folder: Path) -> None:
    """An engine with the same user as its worker is confined by Landlock."""
    os.chown(folder, OTHER_USER, OTHER_USER)
    found = report_of(reachable(captive(folder), user=OTHER_USER))
    assert found["isolation"].startswith("Landlock ABI")
    check_confinement(found)


@needs_landlock
def test_an_engine_in_a_private_folder_is_confined_by_landlock(folder: Path) -> None:
    """An engine whose own user could not reach its folder keeps the worker's user and is confined by Landlock."""
    folder.chmod(0o700)
    found = report_of(captive(folder))
    assert found["isolation"].startswith("Landlock ABI")
    assert "no user of its own" in found["isolation"]
    check_confinement(found)


@needs_linux
def test_required_isolation_prevents_an_unisolated_start(folder: Path) -> None:
    """An engine with neither Landlock nor its own user does not start where isolation is required."""
    folder.chmod(0o700)
    ended = run(without_landlock(captive(folder)))
    assert ended.returncode != 0
    assert (
        "COMFYUI_MODAL_ISOLATION=required, but the engine cannot be isolated here: no user of its own" in ended.stderr
    )
    assert "this kernel has no Landlock. Run the worker as root" in ended.stderr
    assert "SEEN" not in ended.stdout


@needs_root
def test_without_landlock_a_separate_user_is_enough(folder: Path) -> None:
    """Without Landlock, as in gVisor, a separate user fulfils `required`; its files in shared folders are removed."""
    found = report_of(reachable(without_landlock(captive(folder))))
    assert found["isolation"].startswith("user 64")
    assert "this kernel has no Landlock" in found["isolation"]
    check_confinement(found, allowed=["system's temp folder"])
    assert not Path("/var/tmp/planted").exists()  # noqa: S108  the path that the attack uses
