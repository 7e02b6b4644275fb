"""The real `modal deploy`, and a job through the deployed API, on the loopback control plane."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.modal_names import APP_NAME
from storage.s3 import S3Config
from tests.plane import Plane

ROOT = Path(__file__).parents[2]
KEY = "ck_test_modal"
BLUE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}},
}
SLOW = {
    **BLUE,
    "3": {
        "class_type": "LiteSlowSteps",
        "inputs": {"image": ["1", 0], "steps": 200, "seconds_per_step": 0.1, "preview": False},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "slow"}},
}


def modal_command(plane: Plane, *arguments: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MODAL_", "COMFYUI_"))}
    finished = subprocess.run(
        [str(Path(sys.executable).parent / "modal"), *arguments],
        cwd=ROOT,
        env=env | plane.client_env(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}\n{plane.missing}"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Config) -> Iterator[Plane]:
    """The app, deployed with the real command, its settings in a secret."""
    with Plane(tmp_path_factory.mktemp("plane"), container_env={"PATH": os.environ["PATH"]}) as plane:
        plane.state.container_env = dict(plane.state.container_env) | plane.client_env()
        settings = {
            "BUCKET": s3_server.bucket,
            "S3_ENDPOINT": s3_server.endpoint_url,
            "S3_ACCESS_KEY": s3_server.access_key,
            "S3_SECRET_KEY": s3_server.secret_key,
            "S3_PREFIX": "modal-test",
            "API_KEY": KEY,
            "ENGINE": "lite",
        }
        modal_command(
            plane, "secret", "create", APP_NAME, *(f"COMFYUI_MODAL_{name}={value}" for name, value in settings.items())
        )
        modal_command(plane, "deploy", "-m", "infra.modal_app")
        yield plane
        assert dict(plane.missing) == {}, plane.missing


@pytest.fixture(scope="module")
def api(plane: Plane) -> Iterator[httpx.Client]:
    """A client of the deployed API, at the URL that the deploy was given."""
    url = plane.deployed(APP_NAME)["api"].data.web_url
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client:
        yield client


def wait(api: httpx.Client, job_id: str, plane: Plane) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job: dict[str, Any] = api.get(f"/v1/jobs/{job_id}?wait=10").json()
        if job["status"] in ("completed", "failed"):
            return job
    raise AssertionError(plane.logs())


@pytest.mark.xdist_group("modal")
def test_what_is_deployed(plane: Plane) -> None:
    """One API and one worker class, with the first version's numbers."""
    deployed = plane.deployed(APP_NAME)
    assert set(deployed) == {"api", "ComfyWorker.*"}
    worker = deployed["ComfyWorker.*"].spec
    gpus = [entry.function.resources.gpu_config.gpu_type for entry in deployed["ComfyWorker.*"].data.ranked_functions]
    assert gpus == ["L40S"]
    assert worker.autoscaler_settings.max_containers == 4
    assert worker.autoscaler_settings.scaledown_window == 100
    assert worker.max_concurrent_inputs <= 1
    assert worker.timeout_secs == 24 * 3600
    assert worker.retry_policy.retries == 0
    api = deployed["api"].spec
    assert api.autoscaler_settings.max_containers == 3
    assert api.max_concurrent_inputs == 100
    assert len(worker.secret_ids) == 1


@pytest.mark.xdist_group("modal")
def test_a_job_runs_in_a_container(plane: Plane, api: httpx.Client) -> None:
    """Posted to the deployed API's own URL, run by the container entrypoint with the lite engine, fetched from S3."""
    accepted = api.post("/v1/jobs", json={"workflow": BLUE})
    assert accepted.status_code == 202, f"{accepted.text}\n{plane.logs()}"
    job = wait(api, accepted.json()["job_id"], plane)
    assert job["status"] == "completed", f"{job}\n{plane.logs()}"
    (output,) = job["outputs"]
    picture = httpx.get(output["url"])
    assert picture.status_code == 200
    assert (output["width"], output["height"], output["content_type"]) == (32, 16, "image/png")
    assert len(picture.content) == output["size_bytes"]
    assert plane.containers_of("ComfyWorker.*")


@pytest.mark.xdist_group("modal")
def test_a_running_job_is_cancelled(plane: Plane, api: httpx.Client) -> None:
    """DELETE reaches the worker by the bucket alone."""
    job_id = api.post("/v1/jobs", json={"workflow": SLOW}).json()["job_id"]
    deadline = time.monotonic() + 60
    while api.get(f"/v1/jobs/{job_id}").json()["status"] == "queued":
        assert time.monotonic() < deadline, plane.logs()
        time.sleep(0.1)
    api.delete(f"/v1/jobs/{job_id}")
    job = wait(api, job_id, plane)
    assert (job["status"], job["error"]) == ("failed", "Cancelled by user")
