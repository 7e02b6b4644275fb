"""Run a command that must not outlive its parent: `guarded(COMMAND)` is the command line that does.

Standard library only, so that it can be started by its path.

The guard's standard input is a pipe that the parent holds open and never writes to. When the parent ends,
even by kill -9, the pipe ends, and the guard ends its whole process group. This works on every Unix,
unlike Linux's parent-death signal, which also fires when merely the thread that started the child ends.
The guard has one thread alone, so on Linux its command gets that signal: a guard and then its parent,
both killed, would else leave the command to no one.

The command loses the privileges by which root reads and changes what other processes know: their memory, their
environment. It keeps those over files, so that it works in folders of any owner as before.

Start it as the leader of a new session. The guard passes SIGTERM and SIGINT on and ends with the command's
own exit status; a parent that finds the guard gone calls `kill_group`, for whatever was left behind.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

GRACE_S = 3.0
"""From SIGTERM to SIGKILL when the parent is gone."""

NOT_STARTED = 2
"""Exit code where the command cannot be executed; also that of most programs for arguments that they do not know."""

SOCKET_VARIABLE = "COMFYUI_MODAL_ENGINE_SOCKET"
"""Tells an engine's process the path of the UNIX socket that it has to listen on."""

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
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
"""capabilities(7): the ways to another process's memory, the kernel's included."""


def guarded(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` under a guard.

    By path and isolated (-I): it then starts in any folder, with any environment, and no module of that folder
    takes the place of one that the guard imports. ComfyUI's folder is full of top-level modules.
    """
    return [sys.executable, "-I", str(Path(__file__).resolve()), *command]


def kill_group(leader: int) -> None:
    """SIGKILL the process group; a group that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def main(command: Sequence[str]) -> int:
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
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
    while process.poll() is None:
        readable, _, _ = select.select([wake_read, sys.stdin], [], [])
        if wake_read in readable:
            os.read(wake_read, 512)
        if sys.stdin in readable and not os.read(sys.stdin.fileno(), 512):
            _end_with_parent(process)
    return 128 - process.returncode if process.returncode < 0 else process.returncode


def _dying_with(guard: int) -> Callable[[], None] | None:
    """What the command's process does before it becomes the command; None where the system cannot do it."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for capability in _OVER_OTHERS.values():  # who is not root has none, and is told so
            prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        if os.getppid() != guard:  # it was killed before the signal was asked for
            os._exit(1)

    return bind


def _forward(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        process.send_signal(number)


def _end_with_parent(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    _remove_socket()
    kill_group(os.getpgrp())  # the guard itself included: no one is left to read its exit status


def _remove_socket() -> None:
    """An engine's, with its folder: the worker that would do so is gone."""
    socket = os.environ.get(SOCKET_VARIABLE)
    if socket is not None:
        with contextlib.suppress(OSError):
            Path(socket).unlink(missing_ok=True)
            Path(socket).parent.rmdir()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
