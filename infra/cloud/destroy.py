"""The command `comfyui-modal destroy`. It never touches the bucket, so a later deploy continues with its jobs."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.prompt import Confirm

from infra.cli.output import FAILED, REFUSED
from infra.cloud.modal_commands import modal_command, run_modal
from infra.cloud.port import Cloud, NotDeployed
from infra.on_modal.names import APP_NAME, PARTS
from infra.settings import DeploymentSettings


async def destroy(
    cloud: Cloud,
    deployment: DeploymentSettings,
    pools: Sequence[str],
    environment: str | None,
    *,
    yes: bool,
    models: bool,
) -> int:
    """Print what ends and what stays, ask unless `yes`, and stop the app. `models` also deletes the models' volume."""
    console = Console()
    parts = [part for part in PARTS if await cloud.has_function(part)]
    has_volume = models and await cloud.volume_exists(deployment.model_volume)
    if not parts and not has_volume:
        console.print(f"{APP_NAME} is not deployed: nothing to do", highlight=False)
        return 0
    if parts:
        busy, containers = await _workers(cloud, pools)
        console.print(f"ends: {APP_NAME} with {', '.join(parts)}; {containers} worker containers, {busy} at a job")
    if has_volume:
        console.print(f"deleted for good: the volume {deployment.model_volume} with its models", style="red")
    for line in _kept(deployment, models=models):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not yes and not sys.stdin.isatty():
        console.print("not done: there is no terminal to confirm it; say --yes", style="red", highlight=False)
        return REFUSED
    if not yes and not Confirm.ask("Go on?", console=console, default=False):
        return REFUSED
    commands = [modal_command("app", "stop", APP_NAME, "--yes", environment=environment)] if parts else []
    if has_volume:
        commands.append(modal_command("volume", "delete", deployment.model_volume, "--yes", environment=environment))
    for command in commands:
        if (code := await run_modal(command)) != 0:
            console.print(f"`modal {command[-3]}` ended with {code}", style="red", highlight=False)
            return FAILED
    console.print("done: nothing of it costs anything any more, but for what stays", highlight=False)
    return 0


async def _workers(cloud: Cloud, pools: Sequence[str]) -> tuple[int, int]:
    """Count the running tickets and the containers of all deployed pools."""
    busy = containers = 0
    for pool in pools:
        try:
            load = await cloud.load(pool)
        except NotDeployed:
            continue
        busy, containers = busy + load.running, containers + load.containers
    return busy, containers


def _kept(deployment: DeploymentSettings, *, models: bool) -> list[str]:
    kept = [
        "stays: the bucket, with its jobs, outputs and keys. Jobs that were accepted go on after the next deploy",
        f"stays: the secret {deployment.secret}: `modal secret delete {deployment.secret}`",
    ]
    if not models:
        volume = deployment.model_volume
        kept.append(f"stays: the volume {volume} with its models: `comfyui-modal destroy --models` deletes it as well")
    return kept
