"""A running `comfyui-modal up`, seen from outside."""

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

import comfyui_modal
from tests.support.commands import run_command
from tests.support.environment import clean_environment
from tests.support.plain_http import NO_TLS

PARTNER_KEY = "comfyui-partner-key-of-the-acceptance-tests"
"""The partner key that tests send."""
_SECRETS = re.compile(
    r"X-Amz-(Signature|Credential|Security-Token)=[A-Za-z0-9]{8}|\bck_[a-z]+_[a-z2-7]{8}_[A-Za-z0-9_-]{20}|whsec_[A-Za-z0-9+/]{20}"
)
COMMAND = comfyui_modal.command("infra.cli")


class Up:
    """A running `up`, described by its connection.json."""

    def __init__(self, data: Path, process: subprocess.Popen[str]) -> None:
        self.data = data
        self.process = process

    @property
    def connection(self) -> dict[str, Any]:
        connection: dict[str, Any] = json.loads((self.data / "connection.json").read_text())
        return connection

    def client(self) -> httpx.Client:
        connection = self.connection
        headers = {"authorization": f"Bearer {connection['api_key']}"}
        return httpx.Client(base_url=connection["api_url"], headers=headers, timeout=60, verify=NO_TLS)

    def command(self, *arguments: str, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        return run_command("infra.cli", *arguments, "--data", str(self.data), timeout=timeout)

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in (self.data / "logs").glob("*.log"))


STOP_S = 30
"""More than the stop times of its children and the S3 server together, for a busy machine."""


@contextmanager
def up(data: Path, *options: str, environment: dict[str, str] | None = None, cwd: Path | None = None) -> Iterator[Up]:
    """Run `up` on a free port and end it with SIGTERM; none of its processes remain."""
    process = subprocess.Popen(
        [*COMMAND, "up", "--port", "0", "--data", str(data), *options],
        env=clean_environment() | (environment or {}),
        cwd=cwd,
        stdout=subprocess.PIPE,
        text=True,
    )
    family: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready: "), line
        running = Up(data, process)
        connection = running.connection
        yield running
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.terminate()
        with process:
            process.wait(STOP_S)
    assert process.returncode == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive, alive
    assert not (data / "connection.json").exists()
    _check_logs(data, connection)


def _check_logs(data: Path, connection: dict[str, Any]) -> None:
    """Check that no log line contains a secret, a whole key or a usable presigned query."""
    secrets = [connection[name] for name in ("api_key", "secret_key", "webhook_secret") if connection[name]]
    secrets.append(PARTNER_KEY)
    for log in (data / "logs").glob("*"):
        for line in log.read_text(errors="replace").splitlines():
            assert not any(secret in line for secret in secrets), f"{log.name}: {line}"
            assert not _SECRETS.search(line), f"{log.name}: {line}"


def finished(client: httpx.Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}?wait=10").json()
        if job["status"] in ("completed", "failed"):
            return job
    raise AssertionError(f"job {job_id} did not end")


def eventually(check: Any, seconds: float = 30) -> Any:
    """Return the result of `check` once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, KeyError, httpx.HTTPError):
            if found := check():
                return found
        time.sleep(0.1)
    raise AssertionError("it never came true")
