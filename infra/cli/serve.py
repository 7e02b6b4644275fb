"""`comfyui-modal api`, `worker`, `deliver` and `reap`: one process of the service, on any machine.

Each reads the COMFYUI_MODAL_* settings. Together they are what `comfyui-modal up` runs, without its S3 server.
"""

import os
import socket
import sys
from typing import Annotated, NoReturn

from cyclopts import Parameter

import comfyui_modal
from infra.cli.arguments import Port
from infra.cli.up import DEFAULT_HOST, DEFAULT_PORT


def api(
    *,
    host: Annotated[str, Parameter(help="the address to listen on; 0.0.0.0 for every network")] = DEFAULT_HOST,
    port: Port = DEFAULT_PORT,
) -> None:
    _become("api", "infra.local.api_process", "--host", host, "--port", str(port))


def worker() -> None:
    _become("worker", "infra.local.processes", "worker")


def deliver() -> None:
    _become("deliverer", "infra.local.processes", "deliverer")


def reap() -> None:
    _become("reaper", "infra.local.processes", "reaper")


def _become(name: str, module: str, *arguments: str) -> NoReturn:
    """Replace this process, so that signals reach the server itself."""
    # Workers on any number of machines share one bucket, and each needs a name of its own there.
    os.environ.setdefault("COMFYUI_MODAL_PROCESS_NAME", f"{name}-{socket.gethostname()}-{os.getpid()}")
    os.execv(sys.executable, comfyui_modal.command(module, *arguments))  # noqa: S606  no shell is wanted
