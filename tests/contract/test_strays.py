"""Processes that a job leaves behind are ended, however they were started, and an engine's are bounded."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers import confine
from workers.comfy.leftovers import end_processes_of
from workers.supervise import children_of, guarded, kill_strays

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="guards adopt processes on Linux alone")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

GENERATIONS = 60
USER = 61_987
"""No user of this machine has this number."""

NESTED = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    for _ in range({GENERATIONS}):
        if os.fork():
            break
    else:
        open("last", "w").write(str(os.getpid()))
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""
"""Leaves a chain of processes behind, each the parent of the next: the guard adopts one as the one before it ends."""

HOPPING_S = 20
AS_USER = f"""
import os
os.setgroups([])
os.setresgid({USER}, {USER}, {USER})
os.setresuid({USER}, {USER}, {USER})
"""
HOPPING = f"""
import os, time
until = time.monotonic() + {HOPPING_S}
print(flush=True)
while time.monotonic() < until:
    if os.fork():
        os._exit(0)
"""
"""A process that is another one every millisecond."""


@contextmanager
def guarding(folder: Path, code: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = guarded([sys.executable, "-c", code])
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=folder, start_new_session=True) as guard:
        try:
            yield guard
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(guard.pid, signal.SIGKILL)


def test_a_long_chain_of_processes_is_ended(tmp_path: Path) -> None:
    """Each link is found only after the one before it has ended."""
    with guarding(tmp_path, NESTED) as guard:
        last = int(_text_of(tmp_path / "last"))
        (command,) = children_of(guard.pid)
        os.kill(children_of(command)[0], signal.SIGKILL)  # the guard adopts the second process of the chain
        while len(children_of(guard.pid)) < 2:
            time.sleep(0.01)
        killed, is_clean = kill_strays(guard.pid, keep={command})
        assert is_clean
        assert killed > GENERATIONS / 2
        deadline = time.monotonic() + 30
        while Path(f"/proc/{last}").exists():  # until the guard has reaped it
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_processes_that_fork_all_the_time_are_ended(tmp_path: Path) -> None:
    """Each is another one by the time that it would be killed, so that a look can find none although some are left."""
    start = f"subprocess.Popen([sys.executable, '-c', {HOPPING!r}])"
    code = f"import subprocess, sys, time\nfor _ in range(3): {start}\ntime.sleep(60)"
    with guarding(tmp_path, code) as guard:
        while len(children_of(guard.pid)) < 2:
            time.sleep(0.01)
        (command,) = (pid for pid in children_of(guard.pid) if "range(3)" in _command_of(pid))
        time.sleep(0.2)  # for the others to begin
        _, is_clean = kill_strays(guard.pid, keep={command})
        assert is_clean
        assert [pid for pid in children_of(guard.pid) if _command_of(pid)] == [command]


@AS_ROOT
def test_all_processes_of_an_engines_user_are_ended() -> None:
    """Those that fork all the time as well, which a list of processes is too slow to show."""
    began = time.monotonic()
    hoppers = [subprocess.Popen([sys.executable, "-c", AS_USER + HOPPING], stdout=subprocess.PIPE) for _ in range(4)]
    for hopper in hoppers:
        assert hopper.stdout is not None
        assert hopper.stdout.readline() == b"\n"
    end_processes_of(USER)
    for hopper in hoppers:
        hopper.communicate(timeout=30)  # until none of its descendants holds the pipe any more
    assert time.monotonic() - began < HOPPING_S


@AS_ROOT
def test_the_processes_of_an_engines_user_are_bounded() -> None:
    """The limit cannot be raised again."""
    command = [sys.executable, "-I", confine.__file__, confine.request_of(user=USER), "cat", "/proc/self/limits"]
    said = subprocess.run(command, capture_output=True, check=True, cwd="/", text=True).stdout
    (line,) = (line for line in said.splitlines() if line.startswith("Max processes"))
    soft, hard = map(int, line.split()[2:4])
    assert soft == hard
    assert confine.MOST_TASKS <= soft < 2 * confine.MOST_TASKS  # in addition to what is left of the test before


def _command_of(pid: int) -> str:
    """Return the command line of a process; empty for one that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def _text_of(path: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if text := path.read_text():
                return text
        time.sleep(0.01)
    raise AssertionError(f"{path.name} was not written")
