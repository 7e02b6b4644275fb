"""The command line of `deploy`, `destroy`, `scale` and `status`."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from infra.cli.output import FAILED, REFUSED, UNREACHABLE
from infra.cli.root import cli
from storage.keys import DEFAULT_POOL

if TYPE_CHECKING:  # commands import lazily, so that `--help` stays fast
    from infra.cloud.checks import CloudChecks
    from infra.findings import Check

Environment = Annotated[
    str | None, Parameter(name="--env", help="the Modal environment; the client's default otherwise")
]
ApiUrl = Annotated[
    str | None, Parameter(help="where the API is; Modal is asked otherwise", env_var="COMFYUI_MODAL_API_URL")
]
ApiKey = Annotated[str | None, Parameter(help="the key to send", env_var="COMFYUI_MODAL_API_KEY", show_default=False)]


@cli.command
def deploy(
    *,
    env: Environment = None,
    dry_run: Annotated[bool, Parameter(help="check only, and say what would be run", negative="")] = False,
) -> int:
    """Check what a deployment needs, deploy to Modal, print the API's URL."""
    return _answer(_deploy(env, dry=dry_run))


@cli.command
def destroy(
    *,
    env: Environment = None,
    models: Annotated[bool, Parameter(help="delete the volume with the models too", negative="")] = False,
    yes: Annotated[bool, Parameter(help="do not ask", negative="")] = False,
) -> int:
    """Stop the deployment on Modal; the bucket and its jobs stay."""
    from infra.cloud.destroy import destroy as run
    from infra.cloud.modal_cloud import ModalCloud
    from infra.findings import show
    from infra.settings import DeploymentSettings

    async def ended() -> int:
        if await show(_cloud_checks(env).gate(), Console()):
            return UNREACHABLE
        gpus = _pools()
        cloud = ModalCloud(gpus, env)
        return await run(cloud, DeploymentSettings(), (DEFAULT_POOL, *gpus), env, yes=yes, models=models)

    return _answer(ended())


@cli.command
def scale(
    *,
    pool: Annotated[str, Parameter(help="whose workers")] = DEFAULT_POOL,
    min_: Annotated[int | None, Parameter(name="--min", help="containers that are kept without work")] = None,
    max_: Annotated[int | None, Parameter(name="--max", help="most containers at once")] = None,
    buffer: Annotated[
        int | None, Parameter(help="idle containers that are kept ready in addition to the busy ones")
    ] = None,
    env: Environment = None,
) -> int:
    """Show the limits of a pool's workers, or change them until the next deploy."""
    from infra.cloud.modal_cloud import ModalCloud
    from infra.cloud.port import ScaleChange
    from infra.cloud.scale import refusal, rescale

    change = ScaleChange(min_, max_, buffer)
    if reason := refusal(change):
        Console(stderr=True).print(reason, style="red", highlight=False)
        return REFUSED
    return _answer(rescale(ModalCloud(_pools(), env), pool, change, Console()))


@cli.command
def status(
    *,
    env: Environment = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
    json: Annotated[bool, Parameter(help="print as JSON", negative="")] = False,
) -> int:
    """Show the deployment: the API's URL, waiting and running work, containers, the queue."""
    from infra.cloud.modal_cloud import ModalCloud
    from infra.cloud.status import read_status, show_status

    async def shown() -> int:
        gpus = _pools()
        found = await read_status(ModalCloud(gpus, env), (DEFAULT_POOL, *gpus), api_url, api_key)
        return show_status(found, as_json=json)

    return _answer(shown())


def examine_cloud(env: str | None, api_url: str | None, api_key: str | None, *, ticket: bool) -> int:
    """Run `doctor --cloud`."""
    return _answer(_examine(env, api_url, api_key, ticket=ticket))


def _pools() -> dict[str, str]:
    from infra.settings import DeploymentSettings

    return DeploymentSettings().gpu_pools


async def _examine(env: str | None, api_url: str | None, api_key: str | None, *, ticket: bool) -> int:
    from infra.findings import show

    checks, console = _cloud_checks(env, api_url, api_key), Console()
    if await show(checks.gate(), console):
        return UNREACHABLE
    rest = checks.preflight() | checks.deployed(pool=DEFAULT_POOL if ticket else None)
    return FAILED if await show(rest, console) else 0


async def _deploy(env: str | None, *, dry: bool) -> int:
    from infra.cloud.checks import bucket_not_seen
    from infra.cloud.deploy import deploy as run
    from infra.compose.stores import open_objects
    from infra.doctor import BucketChecks
    from infra.settings import external_settings
    from storage.clock import SystemClock

    checks, settings = _cloud_checks(env), external_settings()
    models: dict[str, Check] = {"models": checks.models}
    if settings is None:
        return await run(checks, {"bucket": bucket_not_seen} | models, env, dry=dry)
    async with open_objects(settings) as objects:
        return await run(checks, BucketChecks(objects, SystemClock()).all() | models, env, dry=dry)


def _cloud_checks(env: str | None, api_url: str | None = None, api_key: str | None = None) -> "CloudChecks":
    from infra.cloud.checks import CloudChecks
    from infra.cloud.modal_cloud import ModalCloud
    from infra.settings import DeploymentSettings

    return CloudChecks(ModalCloud(_pools(), env), DeploymentSettings(), api_url=api_url, api_key=api_key)


def _answer(work: Coroutine[Any, Any, int]) -> int:
    """Run a command and return its exit code. Bad settings and errors of the cloud become messages."""
    import asyncio

    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from infra.cloud.port import CloudError, CloudUnreachable
    from infra.settings import format_errors

    try:
        return asyncio.run(work)
    except (ValidationError, SettingsError) as fault:
        Console(stderr=True).print(format_errors(fault), style="red", highlight=False, markup=False)
        return REFUSED
    except CloudError as error:
        Console(stderr=True).print(str(error), style="red", highlight=False, markup=False)
        return UNREACHABLE if isinstance(error, CloudUnreachable) else FAILED
