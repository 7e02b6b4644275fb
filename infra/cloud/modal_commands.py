"""Runs commands of Modal's own command line as child processes that share this terminal."""

import subprocess
import sys
from pathlib import Path

import anyio.to_thread

import comfyui_modal

ROOT = Path(__file__).parents[2]
"""The folder from which Modal uploads the code."""


def modal_command(*arguments: str, environment: str | None) -> list[str]:
    """Return the command line `modal ARGUMENTS`, with the option for the Modal environment at its end."""
    return comfyui_modal.command("modal", *arguments, *(["--env", environment] if environment else []))


async def run_modal(command: list[str]) -> int:
    """Run the command and return its exit code."""
    return await anyio.to_thread.run_sync(_run, command)


def _run(command: list[str]) -> int:
    sys.stdout.flush()
    return subprocess.run(command, cwd=ROOT, check=False).returncode
