"""`comfyui-modal deploy`: nothing is deployed over a finding that says it cannot work."""

import subprocess
import sys
from pathlib import Path

import anyio.to_thread
from rich.console import Console

import comfyui_modal
from app.cli.exit_codes import FAILED, UNREACHABLE
from infra.cloud.checks import CloudChecks
from infra.findings import Check, CheckFailed, show

ROOT = Path(__file__).parents[2]
"""The folder from which Modal takes the code."""


async def deploy(checks: CloudChecks, more: dict[str, Check], environment: str | None, *, dry: bool) -> int:
    """Check, deploy, say where the API is; the exit code. `more` are the checks beside those of the cloud."""
    console = Console()
    if await show(checks.gate(), console):
        return UNREACHABLE
    if await show(checks.preflight() | more, console):
        console.print("not deployed: mend what failed first", style="red")
        return FAILED
    command = _command(environment)
    if dry:
        console.print(f"would run: {' '.join(command[3:])}", highlight=False, markup=False, soft_wrap=True)
        return 0
    code = await anyio.to_thread.run_sync(_run, command)
    if code != 0:
        console.print(f"`modal deploy` ended with {code}", style="red", highlight=False)
        return FAILED
    try:
        console.print(f"API: {await checks.url()}", highlight=False, markup=False, soft_wrap=True)
    except CheckFailed as failure:
        console.print(f"deployed, but where the API is cannot be told: {failure.detail}", style="red", markup=False)
        return FAILED
    if await show({"image": checks.image}, console):
        return FAILED
    console.print("next: `comfyui-modal doctor --cloud` tries it, a worker included", highlight=False)
    return 0


def _command(environment: str | None) -> list[str]:
    chosen = ["--env", environment] if environment else []
    return comfyui_modal.command("modal", "deploy", *chosen, "-m", "infra.modal_app")


def _run(command: list[str]) -> int:
    """Its output goes where ours goes."""
    sys.stdout.flush()
    return subprocess.run(command, cwd=ROOT, check=False).returncode
