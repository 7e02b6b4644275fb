"""Forks a process for each command that it is asked to run: `python -m tests.support.command_server FD`.

It has imported what commands import, which costs more processor time than most commands themselves. What is asked comes
through the socket FD as JSON, with the command's standard output and error; its exit code goes back. It ends with the
socket's other end.
"""

import gc
import importlib
import json
import os
import socket
import sys
from typing import Any

import comfyui_modal

PRELOADED = (
    "boto3",
    "modal.cli.entry_point",
    "obstore.store",
    "infra.cli.run",
    "infra.cli.client",
    "infra.cli.bucket",
    "infra.cloud.modal_cloud",
    "infra.compose.stores",
    "infra.doctor",
    "infra.cli.keys",
    "infra.cli.models",
    "rich.table",
)
MOST_BYTES = 1 << 20


def serve(requests: socket.socket) -> dict[str, Any] | None:
    """Return what to run, in a process of its own, or None in the server when nothing more is asked."""
    while True:
        message, outputs, _, _ = socket.recv_fds(requests, MOST_BYTES, 2)
        if not message:
            return None
        child = os.fork()
        if child == 0:
            requests.close()
            for number, output in enumerate(outputs, 1):
                os.dup2(output, number)
                os.close(output)
            wanted: dict[str, Any] = json.loads(message)
            return wanted
        for output in outputs:
            os.close(output)
        _, status = os.waitpid(child, 0)
        requests.sendall(json.dumps(os.waitstatus_to_exitcode(status)).encode())


def main() -> int:
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # a collection in a child would copy all memory
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted is None:
        return 0
    os.environ.clear()
    os.environ.update(wanted["environment"])
    return comfyui_modal.run(wanted["module"], wanted["arguments"])


if __name__ == "__main__":
    sys.exit(main())
