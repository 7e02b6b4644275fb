"""`comfyui-modal up` with an external bucket or an external ComfyUI."""

import io
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from storage.bucket.s3 import S3Config
from tests.support.engines import LITE
from tests.support.environment import clean_environment
from tests.support.graphs import example
from tests.support.plain_http import NO_TLS
from tests.support.tcp_engine import tcp_engine
from tests.support.up import COMMAND, Up, finished, up


def bucket_settings(s3: S3Config) -> dict[str, str]:
    """Return the settings of an external bucket, with which `up` starts no S3 server."""
    return {
        "COMFYUI_MODAL_S3_ENDPOINT": s3.endpoint_url or "",
        "COMFYUI_MODAL_S3_ACCESS_KEY": s3.access_key or "",
        "COMFYUI_MODAL_S3_SECRET_KEY": s3.secret_key or "",
        "COMFYUI_MODAL_S3_PREFIX": f"elsewhere-{uuid.uuid4().hex}",
    }


@pytest.fixture(scope="module")
def running(s3_server: S3Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Yield an `up` with an external bucket, a ComfyUI that is used by its URL, and another log level."""
    folder = tmp_path_factory.mktemp("elsewhere")
    settings = bucket_settings(s3_server) | {"COMFYUI_MODAL_LOG_LEVEL": "DEBUG"}
    with (
        tcp_engine(LITE, folder / "external") as url,
        up(folder / "data", "--engine", url, "--bucket", s3_server.bucket, environment=settings) as running,
    ):
        assert running.connection["comfyui_url"] == url
        yield running


def test_an_external_bucket_needs_only_settings(running: Up, s3_server: S3Config) -> None:
    """With an external bucket no S3 server is started, the bucket has the job's objects, and other settings apply."""
    connection = running.connection
    assert "s3" not in connection["processes"]
    assert (connection["bucket"], connection["s3_endpoint"]) == (s3_server.bucket, s3_server.endpoint_url)
    with running.client() as client:
        job_id = client.post("/v1/jobs", json={"workflow": example("words")}).json()["job_id"]
        (output,) = finished(client, job_id)["outputs"]
    assert f"/{s3_server.bucket}/{connection['prefix']}/tenants/" in output["url"]
    assert httpx.get(output["url"], verify=NO_TLS).text == output["text"] == "hello, world"
    assert '"level": "DEBUG"' in (running.data / "logs" / "worker-1.log").read_text()


def test_a_running_comfyui_is_used_by_its_url(running: Up, tmp_path: Path) -> None:
    """Input files and outputs of a ComfyUI that is used by URL are transferred over HTTP."""
    photo = tmp_path / "photo.png"
    photo.write_bytes(_png())
    done = running.command("run", "still", "--image", str(photo), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "still_00001_.png").exists()
    examined = running.command("doctor")
    assert examined.returncode == 0, examined.stdout


def test_one_running_comfyui_serves_one_worker(tmp_path: Path) -> None:
    """A second worker for a ComfyUI that is used by URL, which runs one prompt at a time, is refused."""
    done = refused_up(tmp_path, "--port", "0", "--engine", "http://127.0.0.1:9", "--workers", "2")
    assert (done.returncode, "one worker" in done.stderr) == (2, True)


def test_a_folder_that_is_no_comfyui_is_refused_at_once(tmp_path: Path) -> None:
    """A folder without ComfyUI, whose workers would be restarted for ever, is refused at the start."""
    done = refused_up(tmp_path / "data", "--port", "0", "--engine", str(tmp_path))
    assert (done.returncode, "has no main.py" in done.stderr) == (2, True)


def test_a_port_in_use_is_refused_with_advice(tmp_path: Path) -> None:
    """A port in use is refused with advice for the command and for `make up`."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = refused_up(tmp_path, "--port", str(other.getsockname()[1]))
    assert (done.returncode, "make up PORT=0" in done.stderr) == (2, True)


def test_an_unknown_variable_causes_a_warning(tmp_path: Path) -> None:
    """An unknown variable causes a warning with a suggestion and no error, since another version may use it."""
    engine = ("--engine", str(tmp_path))
    done = refused_up(tmp_path / "data", *engine, environment={"COMFYUI_MODAL_MAX_NODE": "3"})
    assert "COMFYUI_MODAL_MAX_NODE is no setting: did you mean COMFYUI_MODAL_MAX_NODES" in done.stderr
    assert "has no main.py" in done.stderr


def test_an_engine_that_lacks_a_module_stops_up(s3_config: S3Config, tmp_path: Path) -> None:
    """`up` exits with the engine's last output instead of restarting it for ever."""
    comfyui = tmp_path / "ComfyUI"
    comfyui.mkdir()
    (comfyui / "main.py").write_text("import torch_that_is_not_there\n")
    options = ("--port", "0", "--engine", str(comfyui), "--bucket", s3_config.bucket)
    done = refused_up(
        tmp_path / "data", *options, environment=bucket_settings(s3_config) | {"COMFYUI_PYTHON": sys.executable}
    )
    assert done.returncode == 2
    assert "worker-1: the engine ended while it was starting" in done.stderr
    assert "No module named 'torch_that_is_not_there'" in done.stderr


def test_an_invalid_workflow_stops_up(s3_config: S3Config, tmp_path: Path) -> None:
    """`up` exits with the workflow's file and field, and leaves no process running."""
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows" / "mine.toml").write_text('title = "Mine"\n')
    environment = bucket_settings(s3_config) | {"COMFYUI_MODAL_WORKFLOWS_DIR": str(tmp_path / "workflows")}
    options = ("--port", "0", "--bucket", s3_config.bucket)
    done = refused_up(tmp_path / "data", *options, environment=environment)
    assert (done.returncode, "api: mine.toml: graph: Field required" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "data" / "connection.json").exists()


def refused_up(
    data: Path, *arguments: str, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """An `up` that is expected to exit."""
    return subprocess.run(
        [*COMMAND, "up", "--data", str(data), *arguments],
        env=clean_environment() | (environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()
