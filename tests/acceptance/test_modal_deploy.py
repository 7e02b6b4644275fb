"""The real `modal deploy`, and jobs through the deployed API, on the loopback control plane."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from infra.cloud.checks import KNOWN_GPUS
from infra.compose.stores import open_objects, open_stores
from infra.on_modal import APP_NAME
from infra.settings import THREAD_VARIABLES, Settings
from storage import keys
from storage.bucket.s3 import S3Config
from storage.clock import SystemClock
from storage.jobs.store import JobStore
from storage.pools.engine_info import EngineInfo
from storage.signal import MemorySignal
from storage.webhooks.signing import new_secret
from tests.plane.state import Function
from tests.support.deployed import BLUE, KEY, Deployed, bucket_settings, deployed, slow
from tests.support.plain_http import NO_TLS
from tests.support.receiver import Receiver, receiver
from tests.support.records import a_job

PREFIX = "modal-test"
POOLS = {"COMFYUI_MODAL_GPU_POOLS": '{"h100": "H100"}'}
SHELL = POOLS | {
    "COMFYUI_MODAL_GPU": "L40S,A100-40GB",
    "COMFYUI_MODAL_REGION": "eu-west",
    "COMFYUI_MODAL_WORKER_CPU": "8",
    "COMFYUI_MODAL_WORKER_MEMORY_MIB": "65536",
    "COMFYUI_MODAL_API_LABEL": "the-old-label",
}
SECRET = new_secret()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Config) -> Iterator[Deployed]:
    settings = bucket_settings(s3_server, PREFIX) | {"webhook_secret": SECRET, "webhook_loopback": "true"}
    with deployed(tmp_path_factory.mktemp("plane"), settings, **SHELL) as app:
        yield app


DAY_S = 24 * 3600
CRON_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
PLAIN = {
    "gpus": [],
    "cpu_and_memory": (0, 0),
    "timeout_s": 300,
    "most_containers": None,
    "concurrency": (0, 0),
    "volumes": [],
    "cron": "",
    "regions": ["eu-west"],
    "retries": 0,
    "snapshot": (False, False),
    "idle_s": 2,
    "label": "",
}
"""The facts of a function unless the table below states others."""
DEPLOYED: dict[str, dict[str, Any]] = {
    "api": {
        "most_containers": 3,
        "concurrency": (100, 400),
        "timeout_s": 600,
        "snapshot": (True, False),
        "idle_s": None,
        "label": "the-old-label",
    },
    "reap": {"most_containers": 1, "cron": "* * * * *"},
    "deliver": {"most_containers": 1, "concurrency": (0, 20), "cron": "* * * * *", "timeout_s": 600, "idle_s": 10},
    "check_image": {"timeout_s": 600, "volumes": [("/models", True)]},
    "download_models": {"timeout_s": DAY_S, "most_containers": 1, "volumes": [("/models", False)]},
    "ComfyWorker.*": {
        "gpus": ["L40S", "A100-40GB"],
        "cpu_and_memory": (8000, 65536),
        "timeout_s": DAY_S,
        "most_containers": 4,
        "volumes": [("/models", True)],
        "idle_s": 100,
    },
}


def _facts(function: Function) -> dict[str, Any]:
    """The facts that the client requested; a volume is (path, whether read-only)."""
    spec = function.spec
    gpu_types = [ranked.function.resources.gpu_config.gpu_type for ranked in function.data.ranked_functions]
    return {
        "gpus": [gpu for gpu in gpu_types if gpu],
        "cpu_and_memory": (spec.resources.milli_cpu, spec.resources.memory_mb),
        "timeout_s": spec.timeout_secs,
        "most_containers": spec.autoscaler_settings.max_containers or None,
        "concurrency": (spec.target_concurrent_inputs, spec.max_concurrent_inputs),
        "volumes": [(mounted.mount_path, mounted.read_only) for mounted in spec.volume_mounts],
        "cron": spec.schedule.cron.cron_string,
        "regions": list(spec.scheduler_placement.regions),
        "retries": spec.retry_policy.retries,
        "snapshot": (spec.checkpointing_enabled, "enable_gpu_snapshot" in spec.experimental_options),
        "idle_s": spec.autoscaler_settings.scaledown_window or None,
        "label": spec.webhook_config.requested_suffix,
    }


def test_every_function_has_its_limits(app: Deployed) -> None:
    """Every function has its limits, most of which Modal's client does not check and its scheduler refuses or bills."""
    functions = app.plane.deployed(APP_NAME)
    assert {name: _facts(function) for name, function in functions.items()} == {
        name: PLAIN | facts for name, facts in DEPLOYED.items()
    }
    secret = next(secret_id for secret_id, (name, _) in app.plane.state.secrets.items() if name == APP_NAME)
    for name, function in functions.items():
        assert secret in function.spec.secret_ids, name
        assert 0 < function.spec.timeout_secs <= DAY_S, name
        assert function.spec.startup_timeout_secs <= DAY_S, name
        gpus = _facts(function)["gpus"]
        assert {gpu.upper() for gpu in gpus} <= KNOWN_GPUS, name
    assert functions["ComfyWorker.*"].spec.startup_timeout_secs == 600


def test_a_worker_starts_as_many_threads_as_it_has_cores(app: Deployed) -> None:
    """The thread variables of ComfyUI's libraries equal the worker's cores, of which its machine has many more."""
    worker = app.plane.deployed(APP_NAME)["ComfyWorker.*"].spec
    variables: dict[str, str] = {}
    for secret_id in worker.secret_ids:
        variables |= app.plane.state.secrets[secret_id][1]
    assert [variables[name] for name in THREAD_VARIABLES] == ["8"] * 4


def test_the_schedules_are_valid_crons(app: Deployed) -> None:
    """Each schedule, which Modal's client does not check, has five fields of `*`, `*/n` or numbers in range."""
    schedules = [function.spec.schedule for function in app.plane.deployed(APP_NAME).values()]
    crons = [schedule.cron.cron_string for schedule in schedules if schedule.WhichOneof("schedule_oneof")]
    assert len(crons) == 2
    for cron in crons:
        for field, (least, most) in zip(cron.split(" "), CRON_RANGES, strict=True):
            numbers = [int(number) for number in re.findall(r"\d+", field)]
            assert re.fullmatch(r"\*(/\d+)?|\d+(-\d+)?(,\d+(-\d+)?)*", field), cron
            assert all(least <= number <= most for number in numbers), cron


def test_a_job_runs_in_a_container(app: Deployed) -> None:
    """A job that is posted to the deployed API runs in a container, and its output can be fetched from S3."""
    job = app.ended(app.submit(BLUE))
    assert job["status"] == "completed", f"{job}\n{app.plane.logs()}"
    (output,) = job["outputs"]
    picture = httpx.get(output["url"], verify=NO_TLS)
    assert picture.status_code == 200
    assert (output["width"], output["height"], output["content_type"]) == (32, 16, "image/png")
    assert len(picture.content) == output["size_bytes"]
    assert app.plane.containers_of("ComfyWorker.*")


def test_a_running_worker_sees_new_models(app: Deployed) -> None:
    """A running worker reloads its models before each job, and runs the job even if the engine holds a file open."""
    for has_open_files in (True, False):
        app.plane.state.has_open_files = has_open_files
        reloads = app.plane.state.rpcs["VolumeReload"]
        job = app.ended(app.submit(BLUE))
        assert job["status"] == "completed", f"{job}\n{app.plane.logs()}"
        assert app.plane.state.rpcs["VolumeReload"] > reloads
    assert '"message": "models are those of before"' in app.plane.logs()


def test_the_webhook_of_a_job_arrives(app: Deployed) -> None:
    """The end of a job calls `deliver`, which sends a signed event."""
    with receiver() as hooks:
        job_id = app.submit(BLUE, webhook_url=hooks.url("modal"))
        app.ended(job_id)
        _arrive(hooks, app)
        (received,) = hooks.on("modal")
    event = Webhook(SECRET).verify(received.body, dict(received.headers))
    assert event["type"] == "comfyui.job.completed.v1"
    assert event["data"]["job_id"] == job_id
    base = str(app.api.base_url).rstrip("/")
    assert event["source"] == event["data"]["urls"]["self"] == f"{base}/v1/jobs/{job_id}"
    assert event["dataschema"] == f"{base}/schemas/comfyui.job.completed.v1.json"


def _arrive(hooks: Receiver, app: Deployed) -> None:
    for _ in range(20):
        if hooks.on("modal"):
            return
        app.plane.call(APP_NAME, "deliver")
    raise AssertionError(app.plane.logs())


def test_a_running_job_is_cancelled(app: Deployed) -> None:
    """A DELETE request stops a running job."""
    job_id = app.submit(slow(20))
    app.runs(job_id)
    app.api.delete(f"/v1/jobs/{job_id}")
    job = app.ended(job_id)
    assert (job["status"], job["error"]) == ("failed", "Cancelled by user")


@pytest.mark.anyio
async def test_a_job_without_a_ticket_is_found_by_the_reaper(app: Deployed, s3_server: S3Config) -> None:
    """The reaper requests a worker for a job whose API died before it did so."""
    settings: Any = bucket_settings(s3_server, PREFIX)
    async with open_objects(Settings(**settings)) as objects:
        record = a_job(created_at=SystemClock().now() - timedelta(minutes=1))
        await JobStore(objects, SystemClock(), MemorySignal()).create(record, workflow=json.dumps(BLUE).encode())
    app.plane.call(APP_NAME, "reap")
    assert app.ended(record.job_id)["status"] == "completed", app.plane.logs()


def test_a_job_chooses_its_gpu(app: Deployed) -> None:
    """Another pool is a variant of the worker class with its own GPU, containers and queue."""
    refused = app.api.post("/v1/jobs", json={"workflow": BLUE, "gpu": "b300"}).json()
    assert (refused["type"], refused["detail"]) == (
        "/problems/unknown-gpu",
        "there is no pool 'b300': this deployment has h100",
    )
    job = app.ended(app.submit(BLUE, gpu="h100"))
    assert (job["status"], job["gpu"]) == ("completed", "h100"), f"{job}\n{app.plane.logs()}"
    (variant,) = (function for function in app.plane.state.functions.values() if b"h100" in function.params)
    assert variant.spec.resources.gpu_config.gpu_type == "H100"


def test_the_smoke_test_of_the_cloud_passes(app: Deployed) -> None:
    """Every step of `make smoke-modal` passes with the lite engine."""
    printed = app.run("tests.smoke", COMFYUI_MODAL_API_KEY=KEY, **POOLS)
    steps = printed.splitlines()
    assert len(steps) == 6, printed
    assert all(step.startswith("ok   ") for step in steps), printed


@pytest.mark.anyio
async def test_the_image_is_checked_and_published(app: Deployed, s3_server: S3Config) -> None:
    """The last step of a deploy publishes the nodes of the deployed engine, which submissions are checked against."""
    settings = Settings(**bucket_settings(s3_server, PREFIX))
    async with open_stores(settings, MemorySignal()) as stores:
        before = [await stores.engine_info.publish(pool, {"PreviousNode": {}}) for pool in ("default", "h100")]
    assert app.plane.call(APP_NAME, "check_image") == []
    async with open_stores(settings, MemorySignal()) as stores:
        published = [await stores.objects.get(keys.engine_info(pool)) for pool in ("default", "h100")]
    after = [EngineInfo.from_bytes(stored.body) for stored in published]
    for old, new in zip(before, after, strict=True):
        assert new.published_at > old.published_at
        assert {"EmptyImage", "LoadImage", "SaveImage"} <= new.object_info.keys()
        assert "PreviousNode" not in new.object_info
