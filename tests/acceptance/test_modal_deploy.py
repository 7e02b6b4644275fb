"""The real `modal deploy`, and a job through the deployed API, on the loopback control plane."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.compose import open_objects
from infra.modal_names import APP_NAME
from infra.settings import ENV_PREFIX, Settings
from storage.clock import SystemClock
from storage.jobs import JobStore
from storage.s3 import S3Config
from storage.signal import MemorySignal
from tests.plane import Plane
from tests.support.records import a_job

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


POOLS = {"COMFYUI_MODAL_GPU_POOLS": '{"h100": "H100"}'}


def bucket_settings(s3: S3Config) -> dict[str, str | None]:
    return {
        "bucket": s3.bucket,
        "s3_endpoint": s3.endpoint_url,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
        "s3_prefix": "modal-test",
    }


def modal_command(plane: Plane, *arguments: str, **variables: str) -> None:
    run_with_client(plane, str(Path(sys.executable).parent / "modal"), *arguments, **variables)


def run_with_client(plane: Plane, *command: str, **variables: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MODAL_", "COMFYUI_"))}
    finished = subprocess.run(
        command,
        cwd=ROOT,
        env=env | plane.client_env() | variables,
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
        settings = bucket_settings(s3_server) | {"api_key": KEY, "engine": "lite"}
        variables = (f"{ENV_PREFIX}{name.upper()}={value}" for name, value in settings.items())
        modal_command(plane, "secret", "create", APP_NAME, *variables)
        modal_command(plane, "deploy", "-m", "infra.modal_app", **POOLS)
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
    """One API, one worker class, the reaper and the deliverer, with the first version's numbers."""
    deployed = plane.deployed(APP_NAME)
    assert set(deployed) == {"api", "reap", "deliver", "check_image", "ComfyWorker.*"}
    for scheduled in ("reap", "deliver"):
        assert deployed[scheduled].spec.schedule.cron.cron_string == "* * * * *"
        assert deployed[scheduled].spec.autoscaler_settings.max_containers == 1
    assert deployed["deliver"].spec.max_concurrent_inputs == 20
    worker = deployed["ComfyWorker.*"].spec
    gpus = [entry.function.resources.gpu_config.gpu_type for entry in deployed["ComfyWorker.*"].data.ranked_functions]
    assert gpus == ["L40S"]
    assert worker.autoscaler_settings.max_containers == 4
    assert worker.autoscaler_settings.scaledown_window == 100
    assert worker.max_concurrent_inputs <= 1
    assert worker.timeout_secs == 24 * 3600
    assert worker.retry_policy.retries == 0
    (mounted,) = worker.volume_mounts
    assert (mounted.mount_path, mounted.read_only) == ("/models", True)
    api = deployed["api"].spec
    assert api.autoscaler_settings.max_containers == 3
    assert api.max_concurrent_inputs == 100


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


@pytest.mark.xdist_group("modal")
@pytest.mark.anyio
async def test_a_job_without_a_ticket_is_found_by_the_reaper(
    plane: Plane, api: httpx.Client, s3_server: S3Config
) -> None:
    """It was stored, and the API died before it asked for a worker."""
    async with open_objects(Settings(**bucket_settings(s3_server))) as objects:  # type: ignore[arg-type]
        record = a_job(created_at=SystemClock().now() - timedelta(minutes=1))
        await JobStore(objects, SystemClock(), MemorySignal()).create(record, workflow=json.dumps(BLUE).encode())
    script = f"import modal; modal.Function.from_name({APP_NAME!r}, 'reap').remote()"
    run_with_client(plane, sys.executable, "-c", script)
    assert wait(api, record.job_id, plane)["status"] == "completed", plane.logs()


@pytest.mark.xdist_group("modal")
def test_a_job_chooses_its_gpu(plane: Plane, api: httpx.Client) -> None:
    """Another pool is a variant of the worker class: another GPU, containers and a queue of its own."""
    refused = api.post("/v1/jobs", json={"workflow": BLUE, "gpu": "b300"}).json()
    assert (refused["type"], refused["detail"]) == (
        "/problems/unknown-gpu",
        "there is no pool 'b300': this deployment has h100",
    )
    job_id = api.post("/v1/jobs", json={"workflow": BLUE, "gpu": "h100"}).json()["job_id"]
    job = wait(api, job_id, plane)
    assert (job["status"], job["gpu"]) == ("completed", "h100"), f"{job}\n{plane.logs()}"
    (variant,) = (function for function in plane.state.functions.values() if b"h100" in function.params)
    assert variant.spec.resources.gpu_config.gpu_type == "H100"


@pytest.mark.xdist_group("modal")
def test_the_image_is_checked_and_published(plane: Plane) -> None:
    """What a deployment does last: submissions are then judged by the nodes that the deployed engine has."""
    script = f"import modal; print(modal.Function.from_name({APP_NAME!r}, 'check_image').remote())"
    run_with_client(plane, sys.executable, "-c", script)
