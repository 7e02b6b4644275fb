"""The command `comfyui-modal deploy`. A failed check prevents the deployment."""

import time

from rich.console import Console

from infra.cli.output import FAILED, UNREACHABLE
from infra.cloud.checks import CloudChecks
from infra.cloud.modal_commands import modal_command, run_modal
from infra.cloud.plan import BUILD, PUBLISH, plan
from infra.findings import Check, CheckFailed, show


async def deploy(checks: CloudChecks, more: dict[str, Check], environment: str | None, *, dry: bool) -> int:
    """Check, deploy and print the API's URL. Return the exit code. `more` are checks beyond those of the cloud."""
    console = Console()
    for line in plan(checks.deployment):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if await show(checks.gate(), console):
        return UNREACHABLE
    if await show(checks.preflight() | more, console):
        console.print("not deployed: mend what failed first", style="red")
        return FAILED
    # A process of Modal's own command line, whose build log goes to this terminal.
    command = modal_command("deploy", "-m", "infra.modal_app", environment=environment)
    if dry:
        console.print(f"would run: {' '.join(command[3:])}", highlight=False, markup=False, soft_wrap=True)
        return 0
    started = time.monotonic()
    code = await run_modal(command)
    if code != 0:
        console.print(f"`modal deploy` ended with {code}", style="red", highlight=False)
        return FAILED
    _took(console, BUILD, started)
    started = time.monotonic()
    try:
        console.print(f"API: {await checks.url()}", highlight=False, markup=False, soft_wrap=True)
    except CheckFailed as failure:
        console.print(f"deployed, but the URL of the API is unknown: {failure.detail}", style="red", markup=False)
        return FAILED
    # Publishes the node classes of the new engine, by which submissions are validated before any worker starts.
    if await show({"image": checks.image}, console):
        return FAILED
    _took(console, PUBLISH, started)
    console.print("next: `comfyui-modal doctor --cloud` tries it, a worker included", highlight=False)
    return 0


def _took(console: Console, step: str, started: float) -> None:
    console.print(f"{step}: {time.monotonic() - started:.0f} s", highlight=False)
