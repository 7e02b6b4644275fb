"""Run a command that must not outlive its parent: `guarded(COMMAND)` returns the command line.

It uses the standard library only, so that it can be started by its path.

The guard's standard input is a pipe that the parent holds open and never writes to. When the parent ends, even by
kill -9, the pipe ends, and the guard kills its whole process group. This works on every Unix, unlike Linux's
parent-death signal, which also fires when merely the thread that started the child ends. The guard has a single thread,
so on Linux its command gets that signal: if the guard and then its parent are killed, the command still ends.

The command loses the privileges with which root reads and changes the memory and environment of other processes. It
keeps those over files, so that it works in folders of any owner.

On Linux the processes that the command leaves behind become the guard's children, even those in their own session: a
worker kills them between jobs (`kill_strays`), and the guard kills them after the command.

Start the guard as the leader of a new session. It passes SIGTERM and SIGINT on and exits with the command's exit
status. A parent that finds the guard dead calls `kill_group` for the rest.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

GRACE_S = 3.0
"""Seconds from SIGTERM to SIGKILL after the parent's death."""

STRAYS_S = 5.0
"""Seconds in which `kill_strays` ends processes that fork while it searches for them."""
_QUIET_LOOKS, _ROUND_S = 3, 0.002
"""How often it must find nothing new before it ends, and the delay between."""

NOT_STARTED = 2
"""Exit code if the command cannot be executed; most programs also use it for unknown arguments."""

SOCKET_VARIABLE = "COMFYUI_MODAL_ENGINE_SOCKET"
"""The variable with the path of the UNIX socket on which an engine's process must listen."""

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2)."""
_OVER_OTHERS = {
    "CAP_SYS_MODULE": 16,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}
"""The capabilities(7) that give access to the memory of other processes or the kernel."""


def guarded(command: Sequence[str]) -> list[str]:
    """Return the command line that runs `command` under a guard."""
    # By its path and isolated, so that it starts in any folder with any environment, and no module of that folder
    # shadows one of its imports. ComfyUI's folder has many top-level modules.
    return [sys.executable, "-I", str(Path(__file__).resolve()), *command]


def kill_group(leader: int) -> None:
    """SIGKILL the process group; a group that no longer exists is not an error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    """Return the children of a process; empty if it has ended, or without Linux's /proc."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return _children_by_status(pid)


def _children_by_status(parent: int) -> list[int]:
    """Find children by /proc/PID/status, for kernels built without the list of children."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name in brackets may contain spaces and brackets; the parent is the second field after it.
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
    return found


def kill_strays(guard: int, keep: Collection[int] = ()) -> tuple[int, bool]:
    """SIGKILL the processes that the guard inherited, and their children. The command's process is in `keep`.

    Returns how many were found, and whether none is left after at most `STRAYS_S`.
    """
    found, seen, quiet = set[int](), set[int](), 0
    deadline = time.monotonic() + STRAYS_S
    while quiet < _QUIET_LOOKS:
        if time.monotonic() > deadline:
            return len(found), False
        strays = {pid for pid in children_of(guard) if pid not in keep}
        for pid in strays:
            # A pid that was killed before is killed again: the system may have given it to a new process.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        # A process may have become another one before the signal. So even if all of these have ended, none is left only
        # if no new one appears in the next looks.
        is_quiet = strays <= seen and not any(map(_is_alive, strays))
        quiet = quiet + 1 if is_quiet else 0
        found |= strays
        seen = strays
        time.sleep(_ROUND_S if is_quiet else 0)  # their children are the guard's by then
    return len(found), True


def _is_alive(pid: int) -> bool:
    """Whether a process has not ended; one that has may wait to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def main(command: Sequence[str]) -> int:
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    # Python writes to the wake-up pipe only for signals that have a handler.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            preexec_fn=_dying_with(os.getpid()),  # noqa: PLW1509  there is no other thread
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\n")
        return NOT_STARTED
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: _forward(process, received))
    while not _has_ended(process):
        readable, _, _ = select.select([wake_read, sys.stdin], [], [])
        if wake_read in readable:
            os.read(wake_read, 512)
        if sys.stdin in readable and not os.read(sys.stdin.fileno(), 512):
            _end_with_parent(process)
    kill_strays(os.getpid())
    return 128 - process.returncode if process.returncode < 0 else process.returncode


def _dying_with(guard: int) -> Callable[[], None] | None:
    """Return what the command's process runs before it becomes the command; None if the system does not support it."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for capability in _OVER_OTHERS.values():  # fails, without effect, for a user who is not root
            prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        if os.getppid() != guard:  # the guard was killed before the signal was set
            os._exit(1)

    return bind


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the command has ended. Inherited children are reaped too."""
    while process.returncode is None:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)  # any child: the inherited ones are reaped nowhere else
        except ChildProcessError:
            break
        if pid == 0:
            return False
        if pid == process.pid:
            process.returncode = os.waitstatus_to_exitcode(status)  # `Popen` can no longer ask for it
    return True


def _forward(process: subprocess.Popen[bytes], number: int) -> None:
    if process.returncode is None:  # not reaped yet, so the pid is still its own
        os.kill(process.pid, number)


def _end_with_parent(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    _remove_socket()
    kill_strays(os.getpid(), keep={process.pid})
    kill_group(os.getpgrp())  # includes the guard: no process is left to read its exit status


def _remove_socket() -> None:
    """Remove an engine's socket and its folder, which the dead worker can no longer do."""
    socket = os.environ.get(SOCKET_VARIABLE)
    if socket is not None:
        with contextlib.suppress(OSError):
            Path(socket).unlink(missing_ok=True)
            Path(socket).parent.rmdir()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
