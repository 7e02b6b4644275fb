"""Freed memory is returned to the system, which the C library alone would not do."""

import subprocess
import sys

import pytest

from tests.support.environment import clean_environment

SCRIPT = """
import sys, psutil
from infra.memory import _glibc, bound_malloc
if _glibc() is None:
    sys.exit(3)
if sys.argv[1] == "bound":
    bound_malloc()
before = psutil.Process().memory_info().rss
bytes(30_000_000)  # glibc now takes smaller blocks than this from its heap, unless it is bounded
taken, kept = [], []
for _ in range(200):
    taken.append(b"x" * 1_000_000)
    kept.append(b"x" * 10_000)  # it follows the large block, so that the heap cannot shrink
taken.clear()
print(psutil.Process().memory_info().rss - before)
"""
MIB = 1024 * 1024


def _left(how: str) -> int:
    """The bytes that a process still holds after it has freed 200 MB."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], env=clean_environment(), capture_output=True, text=True, check=False
    )
    if ended.returncode == 3:
        pytest.skip("the C library is not glibc")
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


def test_freed_memory_is_returned_to_the_system() -> None:
    """Nearly all of 200 MB is returned to the system, most of which would stay without the bound."""
    assert _left("bound") < 50 * MIB
    assert _left("free") > 100 * MIB


def test_objects_loaded_at_startup_are_not_collected_again() -> None:
    """A full collection visits fewer than a tenth of the API's objects once its heap is frozen."""
    script = (
        "import gc, app.asgi; from infra.memory import freeze_heap; before = len(gc.get_objects()); freeze_heap();"
        "print(before, len(gc.get_objects()))"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True)
    before, after = map(int, ended.stdout.split())
    assert after * 10 < before
