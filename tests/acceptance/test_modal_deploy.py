"""The real `modal deploy`, and a job through the deployed API, on the loopback control plane."""

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from infra.compose import open_objects
from infra.modal_names import APP_NAME
from infra.settings import Settings
from storage.clock import SystemClock
from storage.jobs import JobStore
from storage.s3 import S3Config
from storage.signal import MemorySignal
from storage.signing import new_secret
from tests.support.deployed import BLUE, KEY, Deployed, bucket_settings, deployed, slow
from tests.support.receiver import Receiver, receiver
from tests.support.records import a_job

pytestmark = pytest.mark.xdist_group("modal")

PREFIX = "modal-test"
POOLS = {"COMFYUI_MODAL_GPU_POOLS": '{"h100": "H100"}', "COMFYUI_MODAL_REGION": "eu-west"}
SECRET = new_secret()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Config) -> Iterator[Deployed]:
    settings = bucket_settings(s3_server, PREFIX) | {"webhook_secret": SECRET, "webhook_loopback": True}
    with deployed(tmp_path_factory.mktemp("plane"), settings, **POOLS) as app:
        yield app


def test_what_is_deployed(app: Deployed) -> None:
    """One API, one worker class, the reaper and the deliverer, with the first version's numbers."""
    functions = app.plane.deployed(APP_NAME)
    assert set(functions) == {"api", "reap", "deliver", "check_image", "download_models", "ComfyWorker.*"}
    for scheduled in ("reap", "deliver"):
        assert functions[scheduled].spec.schedule.cron.cron_string == "* * * * *"
        assert functions[scheduled].spec.autoscaler_settings.max_containers == 1
    assert functions["deliver"].spec.max_concurrent_inputs == 20
    api = functions["api"].spec
    assert api.autoscaler_settings.max_containers == 3
    assert api.max_concurrent_inputs == 100
    secret = next(secret_id for secret_id, (name, _) in app.plane.state.secrets.items() if name == APP_NAME)
    for name, function in functions.items():
        assert secret in function.spec.secret_ids, name
        assert name == "check_image" or list(function.spec.scheduler_placement.regions) == ["eu-west"], name


def test_what_the_workers_are(app: Deployed) -> None:
    """One job a container, no retries of Modal's own, models that no job can change, no snapshot unless asked for."""
    function = app.plane.deployed(APP_NAME)["ComfyWorker.*"]
    worker = function.spec
    assert [ranked.function.resources.gpu_config.gpu_type for ranked in function.data.ranked_functions] == ["L40S"]
    assert worker.autoscaler_settings.max_containers == 4
    assert worker.autoscaler_settings.scaledown_window == 100
    assert worker.max_concurrent_inputs <= 1
    assert worker.timeout_secs == 24 * 3600
    assert worker.startup_timeout_secs == 600
    assert worker.retry_policy.retries == 0
    assert not worker.checkpointing_enabled
    (mounted,) = worker.volume_mounts
    assert (mounted.mount_path, mounted.read_only) == ("/models", True)


def test_a_job_runs_in_a_container(app: Deployed) -> None:
    """Posted to the deployed API's own URL, run by the container entrypoint with the lite engine, fetched from S3."""
    job = app.ended(app.submit(BLUE))
    assert job["status"] == "completed", f"{job}\n{app.plane.logs()}"
    (output,) = job["outputs"]
    picture = httpx.get(output["url"])
    assert picture.status_code == 200
    assert (output["width"], output["height"], output["content_type"]) == (32, 16, "image/png")
    assert len(picture.content) == output["size_bytes"]
    assert app.plane.containers_of("ComfyWorker.*")


def test_a_worker_that_runs_sees_new_models(app: Deployed) -> None:
    """It asks for them before each job; one that cannot, as the engine holds a file open, runs the job all the same."""
    for has_open_files in (True, False):
        app.plane.state.has_open_files = has_open_files
        asked = app.plane.state.rpcs["VolumeReload"]
        job = app.ended(app.submit(BLUE))
        assert job["status"] == "completed", f"{job}\n{app.plane.logs()}"
        assert app.plane.state.rpcs["VolumeReload"] > asked
    assert '"message": "models are those of before"' in app.plane.logs()


def test_its_webhook_arrives(app: Deployed) -> None:
    """The end of a job calls `deliver`, which has signed it."""
    with receiver() as hooks:
        job_id = app.submit(BLUE, webhook_url=hooks.url("modal"))
        app.ended(job_id)
        _arrive(hooks, app)
        (received,) = hooks.on("modal")
    event = Webhook(SECRET).verify(received.body, dict(received.headers))
    assert event["type"] == "comfyui.job.completed.v1"
    assert event["data"]["job_id"] == job_id


def _arrive(hooks: Receiver, app: Deployed) -> None:
    for _ in range(20):
        if hooks.on("modal"):
            return
        app.call("deliver")
    raise AssertionError(app.plane.logs())


def test_a_running_job_is_cancelled(app: Deployed) -> None:
    """DELETE reaches the worker by the bucket alone."""
    job_id = app.submit(slow(20))
    app.runs(job_id)
    app.api.delete(f"/v1/jobs/{job_id}")
    job = app.ended(job_id)
    assert (job["status"], job["error"]) == ("failed", "Cancelled by user")


@pytest.mark.anyio
async def test_a_job_without_a_ticket_is_found_by_the_reaper(app: Deployed, s3_server: S3Config) -> None:
    """It was stored, and the API died before it asked for a worker."""
    settings: Any = bucket_settings(s3_server, PREFIX)
    async with open_objects(Settings(**settings)) as objects:
        record = a_job(created_at=SystemClock().now() - timedelta(minutes=1))
        await JobStore(objects, SystemClock(), MemorySignal()).create(record, workflow=json.dumps(BLUE).encode())
    app.call("reap")
    assert app.ended(record.job_id)["status"] == "completed", app.plane.logs()


def test_a_job_chooses_its_gpu(app: Deployed) -> None:
    """Another pool is a variant of the worker class: another GPU, containers and a queue of its own."""
    refused = app.api.post("/v1/jobs", json={"workflow": BLUE, "gpu": "b300"}).json()
    assert (refused["type"], refused["detail"]) == (
        "/problems/unknown-gpu",
        "there is no pool 'b300': this deployment has h100",
    )
    job = app.ended(app.submit(BLUE, gpu="h100"))
    assert (job["status"], job["gpu"]) == ("completed", "h100"), f"{job}\n{app.plane.logs()}"
    (variant,) = (function for function in app.plane.state.functions.values() if b"h100" in function.params)
    assert variant.spec.resources.gpu_config.gpu_type == "H100"


def test_the_smoke_test_of_the_cloud(app: Deployed) -> None:
    """`make smoke-modal` holds here as far as it can: every step, with the lite engine."""
    said = app.run(sys.executable, "-m", "tests.smoke", COMFYUI_MODAL_API_KEY=KEY, **POOLS)
    steps = said.splitlines()
    assert len(steps) == 6, said
    assert all(step.startswith("ok   ") for step in steps), said


def test_the_image_is_checked_and_published(app: Deployed) -> None:
    """What a deployment does last: submissions are then judged by the nodes that the deployed engine has."""
    app.call("check_image")
