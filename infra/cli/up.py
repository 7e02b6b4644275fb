"""`comfyui-modal up`: the service on this machine."""

import contextlib
import os
import select
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from infra.cli.arguments import CONNECTION, DEFAULT_DATA, Port
from infra.cli.output import Refused, printable

if TYPE_CHECKING:  # imported when the command runs, so that its `--help` stays fast
    from infra.settings import EngineSettings

DEFAULT_PORT = 8000
DEFAULT_HOST = "127.0.0.1"


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Address:
    """Where `up` listens."""

    port: Port = DEFAULT_PORT
    host: Annotated[str, Parameter(help="of the API and the S3 server; 0.0.0.0 for every network")] = DEFAULT_HOST
    s3_port: Annotated[Port, Parameter(help="the S3 server's port; 0 takes any that is free, and keeps it")] = 0


async def up(
    *,
    address: Address = Address(),
    data: Path = DEFAULT_DATA,
    workers: Annotated[int, Parameter(help="how many workers, each with its own engine")] = 1,
    engine: Annotated[str | None, Parameter(help="lite, the folder of a ComfyUI, or the URL of a running one")] = None,
    bucket: Annotated[str | None, Parameter(help="an external bucket, of the COMFYUI_MODAL_S3_* settings")] = None,
    lite_fault_nodes: Annotated[bool, Parameter(help="offer the lite engine's nodes that fail on purpose")] = False,
) -> None:
    from infra.local.children import stop_on_signals
    from infra.local.host import ANY
    from infra.local.s3_server import S3ServerFailed
    from infra.local.up import UpOptions, serve
    from infra.logs import configure_logging
    from infra.settings import external_settings, unknown_variables

    if workers < 1:
        raise Refused("--workers must be at least 1")
    for line in unknown_variables(os.environ):  # they would be ignored silently
        sys.stderr.write(f"note: {line}\n")
    options = UpOptions(
        port=address.port,
        data=data.resolve(),
        workers=workers,
        engine=_engine(engine),
        external=external_settings(bucket),
        lite_fault_nodes=lite_fault_nodes,
        host=address.host,
        s3_port=address.s3_port,
    )
    if address.host == ANY and not os.environ.get("COMFYUI_MODAL_S3_PUBLIC_ENDPOINT"):
        sys.stderr.write(
            "note: the URLs in answers name 127.0.0.1: for clients of other machines set COMFYUI_MODAL_PUBLIC_URL and "
            "COMFYUI_MODAL_S3_PUBLIC_ENDPOINT to the addresses that they reach\n"
        )
    configure_logging("up", "WARNING")
    try:
        await serve(options, stop_on_signals(), lambda made: _say_ready(options.data, made.api_url), write_if_read)
    except S3ServerFailed as error:
        # Unlike a bucket that fails during another command, this one never ran: another start changes nothing.
        raise Refused(str(error)) from error


def _say_ready(data: Path, api_url: str) -> None:
    sys.stdout.write(f"ready: API {api_url}  docs {api_url}/docs  connection {data / CONNECTION}\n")
    sys.stdout.flush()


def write_if_read(line: str) -> bool:
    """Write a line to standard output. Returns False if this would wait for a reader."""
    # A pipe that counts as writable takes PIPE_BUF bytes without waiting: 4096 on Linux, 512 on macOS.
    with contextlib.suppress(OSError, ValueError):  # closed, or not a file
        if not select.select([], [sys.stdout], [], 0)[1]:
            return False
        # Past Python's buffer, which would keep what a closed pipe refuses and fail once more at the end.
        os.write(sys.stdout.fileno(), f"{printable(line)}\n".encode(errors="replace"))
    return True


def _engine(choice: str | None) -> "EngineSettings":
    from infra.settings import EngineSettings

    found = EngineSettings()
    if choice is None:
        return found
    if choice == "lite":
        return EngineSettings(comfyui_dir=None, comfyui_url=None)  # arguments override COMFYUI_DIR and _URL
    if choice.startswith(("http://", "https://")):
        return EngineSettings(comfyui_url=choice.rstrip("/"))
    return EngineSettings(comfyui_dir=Path(choice).resolve(), comfyui_python=found.comfyui_python, comfyui_url=None)
