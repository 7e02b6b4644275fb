"""What the image holds suffices for its default command and for each service of compose.yaml.

No container daemon runs here: the commands run as processes, from a folder that holds what the image holds.
"""

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from infra.local.host import ANY
from infra.local.s3_server import free_port
from storage.bucket.s3 import S3Config
from tests.support.api_process import bucket_variables
from tests.support.container import copied_into, default_command, entrypoint, services
from tests.support.environment import clean_environment
from tests.support.graphs import example
from tests.support.plain_http import NO_TLS
from tests.support.up import finished

KEY = "ck_compose"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_into(tmp_path_factory.mktemp("image"))


def test_the_services_run_a_job_together(image: Path, s3_config: S3Config, tmp_path: Path) -> None:
    """API, worker, deliverer and reaper of compose.yaml share nothing but the bucket, run a job, and end on SIGTERM."""
    port = free_port()
    settings = bucket_variables(s3_config) | {"COMFYUI_MODAL_API_KEY": KEY}
    with contextlib.ExitStack() as stack:
        for name, service in services().items():
            command = [str(port) if word == "8000" else word for word in service["command"]]
            log = tmp_path / f"{name}.log"
            stack.enter_context(_running([*entrypoint(image), *command], settings, log, tmp_path))
        with _client(f"http://127.0.0.1:{port}", KEY) as client:
            job_id = client.post("/v1/jobs", json={"workflow": example("words")}).json()["job_id"]
            assert finished(client, job_id)["status"] == "completed"
        assert all('"ready"' in (tmp_path / f"{name}.log").read_text() for name in services())


def test_the_default_command_serves_every_network(image: Path, tmp_path: Path) -> None:
    """The image's default command listens on every interface, on the two ports that it names, and runs a job."""
    ports = {"8000": str(free_port()), "9000": str(free_port()), "/data": str(tmp_path / "data")}
    connection_file = tmp_path / "data" / "connection.json"
    command = [ports.get(word, word) for word in default_command()]
    with _running([*entrypoint(image), *command], {}, tmp_path / "up.log", tmp_path):
        _wait_for(connection_file.is_file)
        connection = json.loads(connection_file.read_text())
        assert connection["s3_endpoint"] == f"http://127.0.0.1:{ports['9000']}"
        # 127.0.0.2 is an address of this machine that a server of 127.0.0.1 does not listen on.
        with _client(f"http://127.0.0.2:{ports['8000']}", connection["api_key"]) as client:
            job_id = client.post("/v1/jobs", json={"workflow": example("words")}).json()["job_id"]
            (output,) = finished(client, job_id)["outputs"]
        assert httpx.get(output["url"], verify=NO_TLS).text == output["text"]
        assert httpx.get(f"http://127.0.0.2:{ports['9000']}/", verify=NO_TLS).status_code == 403
    assert ANY in default_command()
    assert "COMFYUI_MODAL_S3_PUBLIC_ENDPOINT" in (tmp_path / "up.log").read_text()


@pytest.mark.parametrize("command", [service["command"] for service in services().values()], ids=" ".join)
def test_a_service_without_settings_says_what_is_missing(image: Path, command: list[str], tmp_path: Path) -> None:
    """A service that lacks its settings ends with exit code 2 and the name of the variable."""
    whole = [*entrypoint(image), *command]
    done = subprocess.run(whole, env=clean_environment(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "COMFYUI_MODAL_BUCKET" in done.stderr) == (2, True), done.stderr


@contextlib.contextmanager
def _running(command: list[str], settings: Mapping[str, str], log: Path, folder: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=clean_environment() | dict(settings),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield
    finally:
        process.terminate()
        code = process.wait(30)
    assert code in (0, -signal.SIGTERM), log.read_text()  # uvicorn repeats the signal to itself at its end


@contextlib.contextmanager
def _client(url: str, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60, verify=NO_TLS) as client:
        _wait_for(lambda: _answers(client))
        yield client


def _answers(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/ready").status_code == 200
    return False


def _wait_for(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
