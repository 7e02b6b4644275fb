"""`comfyui-modal doctor`: examines what runs on this machine, or with --cloud the deployment on Modal."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from infra.cli.arguments import DEFAULT_DATA, ApiKey, ApiUrl, Environment
from infra.cli.output import FAILED, UNREACHABLE, Refused, Terminal
from storage.keys import DEFAULT_POOL


async def doctor(
    *,
    data: Path = DEFAULT_DATA,
    cloud: Annotated[bool, Parameter(help="check the deployment on Modal", negative="")] = False,
    ticket: Annotated[bool, Parameter(help="with --cloud: have a worker take a ticket; it may start a GPU")] = True,
    env: Environment = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    return await (_examine_cloud(env, api_url, api_key, ticket=ticket) if cloud else _examine_local(data))


async def _examine_local(data: Path) -> int:
    from infra.compose.stores import open_objects
    from infra.doctor import ApiChecks, BucketChecks, EngineChecks
    from infra.findings import Check, show
    from infra.local.connection import Connection
    from infra.settings import external_settings
    from storage.clock import SystemClock

    connection = Connection.of(data)
    settings = connection.settings() if connection else external_settings()
    if settings is None:
        raise Refused(
            f"nothing runs in {data}, and COMFYUI_MODAL_BUCKET names no bucket\n"
            "  → start `comfyui-modal up`, or set COMFYUI_MODAL_BUCKET; --cloud checks the deployment on Modal"
        )
    console = Terminal()
    async with open_objects(settings) as objects:
        bucket = BucketChecks(objects, SystemClock(), lease_s=settings.lease_s)
        failed = await show(bucket.gate(), console)
        # Without a bucket each of the others would fail for the same reason.
        checks: dict[str, Check] = {} if failed else bucket.guarantees()
        if connection:
            checks |= ApiChecks(connection.api_url, connection.api_key).all()
            checks |= EngineChecks(connection.comfyui_url).all()
        return FAILED if failed + await show(checks, console) else 0


async def _examine_cloud(env: str | None, api_url: str | None, api_key: str | None, *, ticket: bool) -> int:
    from infra.cli.cloud import checks_of
    from infra.findings import show

    checks, console = checks_of(env, api_url, api_key), Terminal()
    if await show(checks.gate(), console):
        return UNREACHABLE
    rest = checks.preflight() | checks.deployed(pool=DEFAULT_POOL if ticket else None)
    return FAILED if await show(rest, console) else 0
