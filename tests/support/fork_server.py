"""Forks a process for each command that it is asked to run: `python fork_server.py FD MODULE…`.

It has imported the modules that it is given, which costs more processor time than most commands themselves. What is
asked comes through the socket FD as JSON, with four open files: standard input, output and error, and one for what
becomes of the command: a line with its process id, then one with its exit code. It ends with the socket's other end.

It is started by its path and imports nothing of the project by itself, so that a process which is forked from it
finds our modules where its own path says.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from typing import Any

MOST_BYTES = 1 << 20
FILES = 4


def serve(requests: socket.socket) -> dict[str, Any] | None:
    """Return what to run, in a process of its own, or None in the server when nothing more is asked."""
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
    """Clear away what has ended of the processes that wait for the commands."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _forked(message: bytes, files: list[int]) -> dict[str, Any]:
    """Return in the command's process; the one around it reports its id and its exit code."""
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
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.freeze()  # a collection in a child would copy all memory
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted is None:
        return
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["folder"])
    sys.path[:0] = wanted["path"]
    sys.argv = wanted["arguments"]
    runpy.run_module(wanted["arguments"][0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
