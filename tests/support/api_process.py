"""The API as a separate process over a bucket, as a container runs it."""

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

import comfyui_modal
from storage.bucket.s3 import S3Config
from tests.support.environment import clean_environment
from tests.support.plain_http import NO_TLS


def bucket_variables(s3_config: S3Config) -> dict[str, str]:
    """Return the environment variables with which a process or a command finds the bucket."""
    return {
        "COMFYUI_MODAL_BUCKET": s3_config.bucket,
        "COMFYUI_MODAL_S3_ENDPOINT": s3_config.endpoint_url or "",
        "COMFYUI_MODAL_S3_ACCESS_KEY": s3_config.access_key or "",
        "COMFYUI_MODAL_S3_SECRET_KEY": s3_config.secret_key or "",
        "COMFYUI_MODAL_S3_PREFIX": s3_config.prefix,
    }


@contextmanager
def api_process(settings: Mapping[str, str]) -> Iterator[str]:
    """Start the API and yield its URL once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener, api_on(listener, settings) as url:
        listener.close()  # the process has its own
        yield url


@contextmanager
def api_on(listener: socket.socket, settings: Mapping[str, str]) -> Iterator[str]:
    """Start the API on a listening socket and yield its URL once it answers."""
    process = subprocess.Popen(
        comfyui_modal.command("infra.local.api_process", "--fd", str(listener.fileno())),
        env=clean_environment() | dict(settings),
        pass_fds=(listener.fileno(),),
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        _wait(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            if httpx.get(f"{url}/health", timeout=10, verify=NO_TLS).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError("the API did not answer")
