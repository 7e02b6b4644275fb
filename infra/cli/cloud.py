"""`comfyui-modal deploy`, `destroy` and `scale`: the deployment on Modal.

`deploy` deploys only if no check fails. `destroy` never touches the bucket, so a later deploy continues with its jobs.
"""

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Annotated

import anyio.to_thread
from cyclopts import Parameter

import comfyui_modal
from infra.cli.arguments import Environment
from infra.cli.output import FAILED, REFUSED, UNREACHABLE, Refused, Terminal
from infra.cloud.port import Cloud, NotDeployed, ScaleChange
from infra.findings import CheckFailed, show
from infra.on_modal import APP_NAME, PARTS
from storage.keys import DEFAULT_POOL

if TYPE_CHECKING:  # imported when a command runs, so that its `--help` does not wait for Modal's client
    from infra.cloud.checks import CloudChecks
    from infra.cloud.modal_cloud import ModalCloud
    from infra.settings import DeploymentSettings


async def deploy(
    *,
    env: Environment = None,
    dry_run: Annotated[bool, Parameter(help="check only, and say what would be run", negative="")] = False,
) -> int:
    from infra.cloud.plan import plan

    checks, console = checks_of(env), Terminal()
    for line in plan(checks.deployment):
        console.print_line(line)
    failed = await _failed_here(checks, console)
    if await _has_no_access(checks, console):
        console.print_line("not checked without it: secret, webhook secret, model volume, models", style="red")
        return FAILED if failed else UNREACHABLE
    if failed + await show(checks.account() | {"models": checks.models}, console):
        console.print_line("not deployed: fix what failed first", style="red")
        return FAILED
    # A process of Modal's own command line, whose build log goes to this terminal.
    command = _modal("deploy", "-m", "infra.modal_app", environment=env)
    if dry_run:
        console.print_line(f"would run: {' '.join(command[3:])}")  # without the Python that starts it
        return 0
    return await _build_and_publish(command, checks, console)


async def destroy(
    *,
    env: Environment = None,
    models: Annotated[bool, Parameter(help="delete the volume with the models too", negative="")] = False,
    yes: Annotated[bool, Parameter(help="do not ask", negative="")] = False,
    dry_run: Annotated[bool, Parameter(help="say what would be removed, and remove nothing", negative="")] = False,
) -> int:
    from infra.cloud.checks import CloudChecks

    (cloud, deployment), console = cloud_and_settings(env), Terminal()
    if await _has_no_access(CloudChecks(cloud, deployment), console):
        return UNREACHABLE
    parts = [part for part in PARTS if await cloud.has_function(part)]
    has_volume = models and await cloud.volume_exists(deployment.model_volume)
    if not parts and not has_volume:
        console.print_line(f"{APP_NAME} is not deployed: nothing to do")
        return 0
    if parts:
        console.print_line(f"ends: {APP_NAME} with {', '.join(parts)}; {await _workers(cloud, deployment)}")
    if has_volume:
        console.print_line(f"deleted for good: the volume {deployment.model_volume} with its models", style="red")
    for line in _kept(deployment, models=models):
        console.print_line(line)
    if dry_run or not (yes or _is_confirmed(console)):
        console.print_line("nothing was removed")
        return 0 if dry_run else REFUSED
    commands = [_modal("app", "stop", APP_NAME, "--yes", environment=env)] if parts else []
    if has_volume:
        commands.append(_modal("volume", "delete", deployment.model_volume, "--yes", environment=env))
    for command in commands:
        if (code := await _run(command, deployment)) != 0:
            console.print_line(f"`{' '.join(command[3:])}` ended with {code}", style="red")
            return FAILED
    console.print_line("done: only what stays can still cost anything")
    return 0


async def scale(
    *,
    pool: Annotated[str, Parameter(help="whose workers")] = DEFAULT_POOL,
    min_: Annotated[int | None, Parameter(name="--min", help="containers that are kept without work")] = None,
    max_: Annotated[int | None, Parameter(name="--max", help="most containers at once")] = None,
    buffer: Annotated[
        int | None, Parameter(help="idle containers that are kept ready in addition to the busy ones")
    ] = None,
    env: Environment = None,
) -> None:
    change = ScaleChange(min_, max_, buffer)
    check_change(change)
    cloud, _ = cloud_and_settings(env)
    await rescale(cloud, pool, change, Terminal())


def cloud_and_settings(env: str | None) -> "tuple[ModalCloud, DeploymentSettings]":
    from infra.cloud.modal_cloud import ModalCloud
    from infra.settings import DeploymentSettings

    deployment = DeploymentSettings()
    return ModalCloud(deployment.gpu_pools, env), deployment


def checks_of(env: str | None, api_url: str | None = None, api_key: str | None = None) -> "CloudChecks":
    from infra.cloud.checks import CloudChecks

    return CloudChecks(*cloud_and_settings(env), api_url=api_url, api_key=api_key)


async def _failed_here(checks: "CloudChecks", console: Terminal) -> int:
    """Check what needs no account, and the bucket if this shell knows it. Return the number of failed checks."""
    from infra.cloud.checks import bucket_not_seen
    from infra.compose.stores import open_objects
    from infra.doctor import BucketChecks
    from infra.settings import external_settings
    from storage.clock import SystemClock

    failed = await show(checks.local(), console)
    settings = external_settings()
    if settings is None:
        return failed + await show({"bucket": bucket_not_seen}, console)
    async with open_objects(settings) as objects:
        bucket = BucketChecks(objects, SystemClock(), lease_s=settings.lease_s)
        unreachable = await show(bucket.gate(), console)
        return failed + (unreachable or await show(bucket.guarantees(), console))


async def _has_no_access(checks: "CloudChecks", console: Terminal) -> bool:
    """Check that Modal answers and accepts the token, and say before what is tried."""
    from infra.cloud.modal_cloud import server_url
    from infra.settings import ModalSettings

    console.print_line(f"asking Modal at {server_url()}, for at most {ModalSettings().modal_timeout_s:g} s")
    return await show(checks.gate(), console) > 0


async def _build_and_publish(command: list[str], checks: "CloudChecks", console: Terminal) -> int:
    from infra.cloud.plan import BUILD, PUBLISH

    started = time.monotonic()
    if (code := await _run(command, checks.deployment)) != 0:
        console.print_line(f"`modal deploy` ended with {code}", style="red")
        return FAILED
    _print_duration(console, BUILD, started)
    started = time.monotonic()
    try:
        console.print_line(f"API: {await checks.url()}")
    except CheckFailed as failure:
        console.print_line(f"deployed, but the URL of the API is unknown: {failure.detail}", style="red")
        return FAILED
    # Publishes the node classes of the new engine, by which submissions are validated before any worker starts.
    if await show({"image": checks.image}, console):
        return FAILED
    _print_duration(console, PUBLISH, started)
    console.print_line("next: `comfyui-modal doctor --cloud` tries it, a worker included")
    return 0


def check_change(change: ScaleChange) -> None:
    """Raise `Refused` for limits that no pool can have."""
    if change.max_containers is not None and change.max_containers < 1:
        raise Refused("--max must be at least 1: `modal app stop` ends a deployment")
    if min(change.min_containers or 0, change.buffer_containers or 0) < 0:
        raise Refused("--min and --buffer must not be negative")


async def rescale(cloud: Cloud, pool: str, change: ScaleChange, console: Terminal) -> None:
    """Show the limits of a pool, or change them. Raise `Refused` if the minimum would exceed the maximum."""
    before = await cloud.scale(pool)
    if change == ScaleChange():
        console.print_line(f"pool {pool}: {before}")
        return
    low = before.min_containers if change.min_containers is None else change.min_containers
    high = before.max_containers if change.max_containers is None else change.max_containers
    if high is not None and low > high:
        raise Refused(f"pool {pool} cannot keep {low} containers and have at most {high}")
    after = await cloud.rescale(pool, change)
    console.print_line(f"pool {pool}: {after} (was: {before})")
    console.print_line("holds until the next deploy, which sets what the settings say")


def _is_confirmed(console: Terminal) -> bool:
    from rich.prompt import Confirm

    if not sys.stdin.isatty():
        console.print_line("not done: there is no terminal to confirm it; give --yes", style="red")
        return False
    try:
        return Confirm.ask("Go on?", console=console, default=False)
    except EOFError:  # Ctrl-D
        return False


async def _workers(cloud: Cloud, deployment: "DeploymentSettings") -> str:
    """Count the containers and the running tickets of all deployed pools."""
    busy = containers = 0
    for pool in (DEFAULT_POOL, *deployment.gpu_pools):
        try:
            load = await cloud.load(pool)
        except NotDeployed:
            continue
        busy, containers = busy + load.running, containers + load.containers
    return f"{containers} worker containers, {busy} at a job"


def _kept(deployment: "DeploymentSettings", *, models: bool) -> list[str]:
    kept = [
        "stays: the bucket, with its jobs, outputs and keys. Jobs that were accepted go on after the next deploy",
        f"stays: the secret {deployment.secret}: `modal secret delete {deployment.secret}`",
    ]
    if not models:
        volume = deployment.model_volume
        kept.append(f"stays: the volume {volume} with its models: `comfyui-modal destroy --models` deletes it as well")
    return kept


def _modal(*arguments: str, environment: str | None) -> list[str]:
    """Return the command line `modal ARGUMENTS`, with the option for the Modal environment at its end."""
    return comfyui_modal.command("modal", *arguments, *(["--env", environment] if environment else []))


async def _run(command: list[str], deployment: "DeploymentSettings") -> int:
    """Run a command of Modal in this terminal, from the folder whose code it uploads. Return its exit code."""
    # Our buffered lines must be on the terminal before the first one of the command.
    sys.stdout.flush()
    environment = {**os.environ, **deployment.environment()}  # whose paths do not depend on the folder
    return await anyio.to_thread.run_sync(
        lambda: subprocess.run(command, cwd=comfyui_modal.ROOT, env=environment, check=False).returncode
    )


def _print_duration(console: Terminal, step: str, started: float) -> None:
    console.print_line(f"{step}: {time.monotonic() - started:.0f} s")
