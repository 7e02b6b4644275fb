"""The command `comfyui-modal`: the client commands, and those that run or examine a deployment."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from infra.cli.arguments import DEFAULT_DATA
from infra.cli.bucket import bucket as bucket_commands
from infra.cli.cloud import ApiKey, ApiUrl, Environment, examine_cloud
from infra.cli.keys import keys as key_commands
from infra.cli.models import models as model_commands
from infra.cli.output import FAILED, Terminal, refuse
from infra.cli.root import cli

if TYPE_CHECKING:  # commands import lazily, so that `--help` stays fast
    from infra.local.up import UpOptions
    from infra.settings import EngineSettings

DEFAULT_PORT = 8000

cli.command(bucket_commands)
cli.command(key_commands)
cli.command(model_commands)


def main() -> None:
    sys.exit(cli())


@cli.command
def up(
    *,
    port: int = DEFAULT_PORT,
    data: Path = DEFAULT_DATA,
    workers: Annotated[int, Parameter(help="how many workers, each with its own engine")] = 1,
    engine: Annotated[str | None, Parameter(help="lite, the folder of a ComfyUI, or the URL of a running one")] = None,
    bucket: Annotated[str | None, Parameter(help="an external bucket, of the COMFYUI_MODAL_S3_* settings")] = None,
    lite_fault_nodes: Annotated[bool, Parameter(help="offer the lite engine's nodes that fail on purpose")] = False,
) -> int:
    """Serve the API on this machine: S3 server, API and workers, until Ctrl-C.

    Prints one line when all is ready, and writes DATA/connection.json for clients.
    """
    import asyncio

    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from infra.local.data_folder import UpRefused
    from infra.local.s3_server import S3ServerFailed
    from infra.local.up import UpOptions
    from infra.settings import external_settings, format_errors

    if workers < 1:
        return refuse("--workers must be at least 1")
    _note_misspelt_settings()
    try:
        options = UpOptions(
            port=port,
            data=data.resolve(),
            workers=workers,
            engine=_engine(engine),
            external=external_settings(bucket),
            lite_fault_nodes=lite_fault_nodes,
        )
        asyncio.run(_serve(options))
    except (UpRefused, S3ServerFailed) as refused:
        return refuse(str(refused))
    except (ValidationError, SettingsError) as fault:
        return refuse(format_errors(fault))
    return 0


def _note_misspelt_settings() -> None:
    """Warn about unknown COMFYUI_MODAL_* variables, which would be ignored silently."""
    from infra.settings import unknown_variables

    for line in unknown_variables(os.environ):
        sys.stderr.write(f"note: {line}\n")


@cli.command
def doctor(
    *,
    data: Path = DEFAULT_DATA,
    cloud: Annotated[bool, Parameter(help="check the deployment on Modal", negative="")] = False,
    ticket: Annotated[bool, Parameter(help="with --cloud: have a worker take a ticket; it may start a GPU")] = True,
    env: Environment = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Check the bucket, the API and the engine: what holds, what does not, and what to do about it.

    Checks what `up` runs in DATA; without it, the bucket of the COMFYUI_MODAL_* settings; with --cloud, Modal.
    """
    if cloud:
        return examine_cloud(env, api_url, api_key, ticket=ticket)
    import asyncio

    return asyncio.run(_examine(data))


async def _serve(options: "UpOptions") -> None:
    from infra.local.children import stop_on_signals
    from infra.local.up import up as serve
    from infra.logs import configure_logging

    configure_logging("up", "WARNING")
    await serve(options, stop_on_signals(), lambda connection: _say_ready(options.data, connection.api_url))


def _say_ready(data: Path, api_url: str) -> None:
    sys.stdout.write(f"ready: API {api_url}  docs {api_url}/docs  connection {data / 'connection.json'}\n")
    sys.stdout.flush()


async def _examine(data: Path) -> int:
    from infra.compose.stores import open_objects
    from infra.doctor import ApiChecks, BucketChecks, EngineChecks
    from infra.findings import show
    from infra.local.connection import Connection
    from infra.settings import external_settings
    from storage.clock import SystemClock

    connection = Connection.of(data)
    settings = connection.settings() if connection else external_settings()
    if settings is None:
        return refuse(f"nothing runs in {data}, and COMFYUI_MODAL_BUCKET names no bucket")
    async with open_objects(settings) as objects:
        checks = BucketChecks(objects, SystemClock()).all()
        if connection:
            checks |= ApiChecks(connection.api_url, connection.api_key).all()
            checks |= EngineChecks(connection.comfyui_url).all()
        return FAILED if await show(checks, Terminal()) else 0


def _engine(choice: str | None) -> "EngineSettings":
    from infra.settings import EngineSettings

    found = EngineSettings()
    if choice is None:
        return found
    if choice == "lite":
        return EngineSettings(comfyui_dir=None, comfyui_url=None)
    if choice.startswith(("http://", "https://")):
        return EngineSettings(comfyui_url=choice.rstrip("/"))
    return EngineSettings(comfyui_dir=Path(choice).resolve(), comfyui_python=found.comfyui_python, comfyui_url=None)


if __name__ == "__main__":
    main()
