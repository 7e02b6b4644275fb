"""Processes that a job leaves behind are ended, however they were started, and those of an engine are limited."""

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
"""A user id that no user of this machine has."""

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
"""Leaves a chain of processes, each the parent of the next, which the guard adopts when their parents end."""

FORKING_S = 20
AS_USER = f"""
import os
os.setgroups([])
os.setresgid({USER}, {USER}, {USER})
os.setresuid({USER}, {USER}, {USER})
"""
FORKING = f"""
import os, time
until = time.monotonic() + {FORKING_S}
print(flush=True)
while time.monotonic() < until:
    if os.fork():
        os._exit(0)
"""
"""A program whose process forks and exits every millisecond."""


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
    """A chain of processes is ended, although each link is found only after the end of the previous link."""
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


def test_constantly_forking_processes_are_ended(tmp_path: Path) -> None:
    """Constantly forking processes are ended, although a single list of processes may show none of them."""
    start = f"subprocess.Popen([sys.executable, '-c', {FORKING!r}])"
    code = f"import subprocess, sys, time\nfor _ in range(3): {start}\ntime.sleep(60)"
    with guarding(tmp_path, code) as guard:
        while len(children_of(guard.pid)) < 2:
            time.sleep(0.01)
        (command,) = (pid for pid in children_of(guard.pid) if "range(3)" in _command_of(pid))
        time.sleep(0.2)  # for the others to start
        _, is_clean = kill_strays(guard.pid, keep={command})
        assert is_clean
        assert [pid for pid in children_of(guard.pid) if _command_of(pid)] == [command]


@AS_ROOT
def test_all_processes_of_an_engines_user_are_ended() -> None:
    """All processes of an engine's user are ended, even if they fork faster than they can be listed."""
    began = time.monotonic()
    programs = [subprocess.Popen([sys.executable, "-c", AS_USER + FORKING], stdout=subprocess.PIPE) for _ in range(4)]
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == b"\n"
    end_processes_of(USER)
    for program in programs:
        program.communicate(timeout=30)  # until no descendant holds the pipe
    assert time.monotonic() - began < FORKING_S


@AS_ROOT
def test_the_processes_of_an_engines_user_are_limited() -> None:
    """The number of processes of an engine's user has a limit that the engine cannot raise."""
    command = [sys.executable, "-I", confine.__file__, confine.request_of(user=USER), "cat", "/proc/self/limits"]
    limits = subprocess.run(command, capture_output=True, check=True, cwd="/", text=True).stdout
    (line,) = (line for line in limits.splitlines() if line.startswith("Max processes"))
    soft, hard = map(int, line.split()[2:4])
    assert soft == hard
    assert confine.MOST_TASKS <= soft < 2 * confine.MOST_TASKS  # in addition to processes left by the previous test


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
