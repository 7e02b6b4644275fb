"""Forks a process for each requested command: `python fork_server.py FD MODULE…`.

It imports the given modules once, which costs more processor time than most commands. A request is JSON on the socket
FD with four open files: standard input, output and error, and one for the report, which gets a line with the process id
and one with the exit code. The server ends when the other end of the socket is closed.

It is started by its path and imports nothing of the project by itself, so that a forked process finds the project's
modules on its own path.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
from typing import Any

MOST_BYTES = 1 << 20
FILES = 4


def serve(requests: socket.socket) -> dict[str, Any] | None:
    """Return the request in the forked process, or None in the server when the socket is closed."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, MOST_BYTES, FILES)
        if not message:
            return None
        _reap()
        if os.fork() == 0:
            requests.close()
            return _forked(message, files)
        for file in files:
            os.close(file)


def _reap() -> None:
    """Reap the ended processes that wait for the commands."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _forked(message: bytes, files: list[int]) -> dict[str, Any]:
    """Return in the command's process; its parent reports the command's process id and exit code."""
    *standard, report = files
    child = os.fork()
    if child == 0:
        for number, file in enumerate(standard):
            os.dup2(file, number)
        for file in files:
            os.close(file)
        wanted: dict[str, Any] = json.loads(message)
        return wanted
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(report, f"{child}\n".encode())
    for file in standard:
        os.close(file)
    _, status = os.waitpid(child, 0)
    os.write(report, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def main() -> None:
    gc.disable()  # imported objects stay
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.freeze()  # a collection in a child would copy all memory
    gc.enable()
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted is None:
        return
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["folder"])
    sys.path[:0] = wanted["path"]
    sys.argv = wanted["arguments"]
    try:
        runpy.run_module(wanted["arguments"][0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        leave(ended.code)
    leave(0)


def leave(code: int) -> None:
    """End the process in the order in which Python does, but without freeing all modules.

    That would copy the memory which the process shares with the server, and takes longer than most commands.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()  # objects that complain when they are freed do so here
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
