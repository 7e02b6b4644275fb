"""Modal's own commands, as processes: what they print goes where our output goes."""

import subprocess
import sys
from pathlib import Path

import anyio.to_thread

import comfyui_modal

ROOT = Path(__file__).parents[2]
"""The folder from which Modal takes the code."""


def modal_command(*arguments: str, environment: str | None) -> list[str]:
    """`modal ARGUMENTS`, with the Modal environment last among the options where one is chosen."""
    return comfyui_modal.command("modal", *arguments, *(["--env", environment] if environment else []))


async def run_modal(command: list[str]) -> int:
    """The exit code."""
    return await anyio.to_thread.run_sync(_run, command)


def _run(command: list[str]) -> int:
    sys.stdout.flush()
    return subprocess.run(command, cwd=ROOT, check=False).returncode
