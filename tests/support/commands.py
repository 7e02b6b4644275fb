"""Runs commands of the project in processes with preloaded modules: see `fork_server`."""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tests.support.environment import clean_environment
from tests.support.forked import fork

ROOT = Path(__file__).parents[2]
PRELOADED = (
    "boto3",
    "cryptography.x509.verification",
    "cyclopts.completion",
    "cyclopts.help",
    "encodings.idna",
    "httpcore",
    "modal.cli.entry_point",
    "obstore.store",
    "comfyui_modal_client",
    "infra.cli.root",
    "infra.cli.bucket",
    "infra.cli.doctor",
    "infra.cli.explain",
    "infra.cli.jobs",
    "infra.cli.keys",
    "infra.cli.models",
    "infra.cli.run",
    "infra.cli.status",
    "infra.cli.webhooks",
    "infra.cloud.checks",
    "infra.cloud.modal_cloud",
    "infra.compose.stores",
    "infra.doctor",
    "infra.local.data_folder",
    "infra.models.sync",
    "rich._emoji_codes",
)


def run_command(
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    timeout: float = 120,
    folder: Path = ROOT,
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m module argument…` and return its output and exit code. `environment` replaces the whole
    environment."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = fork(
            PRELOADED,
            ("comfyui_modal", module, *arguments),
            environment=clean_environment() if environment is None else environment,
            output=output,
            errors=errors,
            folder=folder,
        )
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess([module, *arguments], code, _text(output), _text(errors))


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()
