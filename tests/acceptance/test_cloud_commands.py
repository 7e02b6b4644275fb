"""The commands for the deployment on Modal, with the real client, on the loopback control plane."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from app import __version__
from infra.on_modal import APP_NAME, PARTS
from infra.settings import ENV_PREFIX
from storage.bucket.s3 import S3Config
from storage.keys import DEFAULT_POOL
from tests.plane import Plane
from tests.support.commands import run_command
from tests.support.environment import clean_environment
from tests.support.graphs import example
from tests.support.plain_http import NO_TLS

ROOT = Path(__file__).parents[2]
KEY = "ck_test_cloud"
SLOW = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "slow"}},
    "3": {
        "class_type": "LiteSlowSteps",
        "inputs": {"image": ["1", 0], "steps": 600, "seconds_per_step": 0.1, "preview": False},
    },
}
TICKET = """
import asyncio
from infra.cloud.modal_cloud import ModalCloud
try:
    asyncio.run(ModalCloud({}).ticket("default", 0.5))
except TimeoutError:
    print("late")
"""


class Shell:
    """An operator's shell with a Modal token and the settings of the secret."""

    def __init__(self, plane: Plane, settings: Mapping[str, str]) -> None:
        self.plane = plane
        self.settings = settings

    def run(self, *arguments: str, without: str = "MODAL_NONE", **changed: str) -> subprocess.CompletedProcess[str]:
        """Runs a command without the variables whose names begin with `without`; the keywords are settings."""
        env = clean_environment() | self.plane.client_env() | dict(self.settings)
        env |= {ENV_PREFIX + name.upper(): value for name, value in changed.items()}
        kept = {name: value for name, value in env.items() if not name.startswith(without)}
        return run_command(*arguments, environment=kept, timeout=180)

    def command(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return self.run("infra.cli", *arguments, **changed)

    def done(self, *arguments: str, **changed: str) -> str:
        """The output of a command that must succeed."""
        finished = self.command(*arguments, **changed)
        assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}\n{self.plane.logs()}"
        return finished.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Config) -> Iterator[Shell]:
    """A shell whose secret and volume exist, with nothing deployed."""
    with Plane(tmp_path_factory.mktemp("plane"), container_env={"PATH": os.environ["PATH"]}) as plane:
        plane.state.container_env = dict(plane.state.container_env) | plane.client_env()
        settings = {
            "COMFYUI_MODAL_BUCKET": s3_server.bucket,
            "COMFYUI_MODAL_S3_ENDPOINT": s3_server.endpoint_url or "",
            "COMFYUI_MODAL_S3_ACCESS_KEY": s3_server.access_key or "",
            "COMFYUI_MODAL_S3_SECRET_KEY": s3_server.secret_key or "",
            "COMFYUI_MODAL_S3_PREFIX": "cloud-commands",
            "COMFYUI_MODAL_API_KEY": KEY,
            "COMFYUI_MODAL_WEBHOOK_SECRET": "whsec_" + "c2VjcmV0" * 4,
        }
        shell = Shell(plane, settings)
        secret = [f"{name}={value}" for name, value in settings.items()]
        for creation in (["secret", "create", APP_NAME, *secret], ["volume", "create", "comfyui-modal-models"]):
            finished = shell.run("modal", *creation)
            assert finished.returncode == 0, finished.stderr
        yield shell
        assert dict(plane.missing) == {}, plane.missing


@pytest.fixture(scope="module")
def first_deploy(shell: Shell) -> str:
    """The output of the first deploy command."""
    return shell.done("deploy")


@pytest.fixture(scope="module")
def deployed(shell: Shell, first_deploy: str) -> Shell:
    return shell


def lines(output: str, mark: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith(mark)]


def test_a_missing_token_is_an_error(shell: Shell) -> None:
    """Without a Modal token the commands exit with code 3 and name the command that creates a token."""
    for command in (["deploy"], ["doctor", "--cloud"]):
        refused = shell.command(*command, without="MODAL_TOKEN")
        assert refused.returncode == 3, refused.stderr
        assert "FAIL Modal token" in refused.stdout
        assert "modal token new" in refused.stdout
    refused = shell.command("status", without="MODAL_TOKEN")
    assert (refused.returncode, "Token missing" in refused.stderr) == (3, True), refused.stderr


def test_a_missing_deployment_is_reported(shell: Shell) -> None:
    """The commands report that nothing is deployed yet, without a traceback."""
    published = dict(shell.plane.state.published)
    shell.plane.state.published.clear()
    try:
        status = shell.command("status", "--json")
        assert status.returncode == 1, status.stderr
        assert json.loads(status.stdout)["missing"] == list(PARTS)
        refused = shell.command("scale", "--max", "2")
        assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
        doctor = shell.command("doctor", "--cloud")
        assert doctor.returncode == 1, doctor.stderr
        assert len(lines(doctor.stdout, "FAIL")) == 5, doctor.stdout
        assert "run `comfyui-modal deploy`" in doctor.stdout
    finally:
        shell.plane.state.published.update(published)


def test_a_dry_run_deploys_nothing(shell: Shell) -> None:
    """A dry run checks the bucket, prints the deploy command and deploys nothing."""
    before = shell.plane.state.rpcs["AppPublish"]
    printed = shell.done("deploy", "--dry-run", "--env", "staging")
    assert "ok   conditional create" in printed
    assert "would run: modal deploy -m infra.modal_app --env staging" in printed
    assert shell.plane.state.rpcs["AppPublish"] == before


def test_missing_requirements_stop_the_deploy(shell: Shell) -> None:
    """A missing or incomplete secret and a bucket that refuses the key stop the deploy."""
    before = shell.plane.state.rpcs["AppPublish"]
    assert shell.run("modal", "secret", "create", "thin", "COMFYUI_MODAL_BUCKET=b").returncode == 0
    for settings, reason in (
        ({"secret": "nowhere"}, "there is no secret 'nowhere'"),
        ({"secret": "thin"}, "thin lacks COMFYUI_MODAL_API_KEY, COMFYUI_MODAL_S3_ACCESS_KEY"),
        ({"s3_secret_key": "wrong"}, "FAIL bucket reachable"),
    ):
        refused = shell.command("deploy", **settings)
        assert refused.returncode == 1, refused.stderr
        assert reason in refused.stdout
        assert "wrong" not in refused.stdout
    assert shell.plane.state.rpcs["AppPublish"] == before


def test_a_bucket_unknown_to_the_shell_is_a_note(shell: Shell) -> None:
    """A bucket that is not set in this shell is a note, because it is checked in the cloud."""
    finished = shell.command("deploy", "--dry-run", without="COMFYUI_MODAL")
    assert finished.returncode == 0, finished.stderr
    assert lines(finished.stdout, "note") == [
        "note bucket: not tried: COMFYUI_MODAL_BUCKET is not set here",
        "note models: not asked: nothing is deployed yet",
    ]


def test_a_deploy_prints_the_api_url(deployed: Shell, first_deploy: str) -> None:
    """A deploy passes on Modal's output and ends with the API's URL and the next step."""
    printed = first_deploy
    url = deployed.plane.deployed(APP_NAME)["api"].data.web_url
    assert lines(printed, "FAIL") == []
    assert "App deployed" in printed
    assert re.sub(r": [0-9]+ s$", ": N s", "\n".join(printed.splitlines()[-5:]), flags=re.MULTILINE).splitlines() == [
        "build: N s",
        f"API: {url}",
        "ok   image: the engine starts, and has every node of the shipped workflows; its nodes are published",
        "publish: N s",
        "next: `comfyui-modal doctor --cloud` tries it, a worker included",
    ]
    assert httpx.get(f"{url}/health", timeout=60, verify=NO_TLS).json() == {"status": "ok", "version": __version__}


def test_a_deploy_that_modal_refuses_fails(shell: Shell) -> None:
    """A deploy that Modal refuses fails with Modal's message."""
    refused = shell.command("deploy", gpu="L40S:many")
    assert refused.returncode == 1, refused.stderr
    assert "`modal deploy` ended with 1" in refused.stdout
    assert "GPU" in refused.stdout + refused.stderr


def test_a_wrong_setting_is_named(shell: Shell) -> None:
    """A wrong setting is named without a traceback."""
    refused = shell.command("deploy", container_run_s="0")
    assert (refused.returncode, refused.stdout, "Traceback" in refused.stderr) == (2, "", False)
    assert "COMFYUI_MODAL_CONTAINER_RUN_S" in refused.stderr


def test_the_scale_of_a_pool_can_be_changed(deployed: Shell) -> None:
    """The scale of a pool is shown and changed by `scale`, and reset by the next deploy."""
    assert "pool default: min 0, max 4, buffer 0, idle for 100 s" in deployed.done("scale")
    printed = deployed.done("scale", "--max", "2", "--min", "1", "--buffer", "1")
    assert "pool default: min 1, max 2, buffer 1, idle for 100 s (was: min 0, max 4" in printed
    functions = deployed.plane.state.functions
    settings = functions[deployed.plane.state.bound_to(DEFAULT_POOL)].spec.autoscaler_settings
    assert (settings.min_containers, settings.max_containers, settings.buffer_containers) == (1, 2, 1)
    refused = deployed.command("scale", "--min", "3")
    assert (refused.returncode, "cannot keep 3 containers and have at most 2" in refused.stderr) == (2, True)
    deployed.done("deploy")
    assert "min 0, max 4, buffer 0" in deployed.done("scale")


@pytest.mark.parametrize("arguments", [["--max", "0"], ["--min", "-1"], ["--buffer", "-1"]])
def test_an_impossible_scale_is_refused(shell: Shell, arguments: list[str]) -> None:
    """An impossible scale is refused before a request to Modal."""
    assert shell.command("scale", *arguments, without="MODAL_TOKEN").returncode == 2


def test_an_unknown_pool_is_named(deployed: Shell) -> None:
    """`scale` for an unknown pool fails with the pool's name."""
    refused = deployed.command("scale", "--pool", "nowhere")
    assert (refused.returncode, "'nowhere'" in refused.stderr) == (1, True)


def test_doctor_passes_a_good_deployment(deployed: Shell) -> None:
    """All checks of `doctor --cloud` pass, including the round trip of a ticket."""
    printed = deployed.done("doctor", "--cloud")
    assert lines(printed, "FAIL") == lines(printed, "note") == [], printed
    assert [re.split(": ", line[5:])[0] for line in lines(printed, "ok")] == [
        "Modal token",
        "GPUs",
        "attention",
        "manifests",
        "image lock",
        "memory",
        "secret",
        "webhook secret",
        "model volume",
        "functions",
        "API alive",
        "API ready",
        "API key",
        "ticket of pool default",
    ]
    assert deployed.plane.containers_of("ComfyWorker.*")


def test_doctor_reports_a_wrong_key(deployed: Shell) -> None:
    """`doctor --cloud` tries the given API key, and reports a wrong key without repeating it."""
    refused = deployed.command("doctor", "--cloud", "--no-ticket", "--api-key", "ck_wrong")
    assert refused.returncode == 1, refused.stderr
    assert [line[:12] for line in lines(refused.stdout, "FAIL")] == ["FAIL API key"]
    assert "ck_wrong" not in refused.stdout


def test_status_and_logs_are_shown(deployed: Shell) -> None:
    """`status` finds the API through Modal, and `logs` prints the same as `jobs logs`."""
    url = deployed.plane.deployed(APP_NAME)["api"].data.web_url
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60, verify=NO_TLS) as api:
        job_id = api.post("/v1/jobs", json={"workflow": example("words")}).json()["job_id"]
        deadline = time.monotonic() + 60
        while api.get(f"/v1/jobs/{job_id}?wait=10").json()["status"] not in ("completed", "failed"):
            assert time.monotonic() < deadline, deployed.plane.logs()
    status = json.loads(deployed.done("status", "--json"))
    assert (status["api"]["url"], status["api"]["version"], status["missing"]) == (url, __version__, [])
    assert status["api"]["jobs"] == {"queued": 0, "running": 0}
    pool = status["pools"]["default"]
    assert (pool["load"]["waiting"], pool["load"]["running"], pool["scale"]["max_containers"]) == (0, 0, 4)
    assert pool["load"]["containers"] >= 1
    printed = deployed.done("status")
    assert "0 tickets wait, 0 run" in printed
    assert "0 queued, 0 running" in printed
    logs = [deployed.done(*log_command, job_id, "--api-url", url) for log_command in (["logs"], ["jobs", "logs"])]
    assert logs[0] == logs[1] != ""


def test_a_ticket_of_a_busy_pool_waits(deployed: Shell) -> None:
    """With one container that runs a job, the next ticket waits, is counted, and exceeds its time limit."""
    deployed.done("scale", "--max", "1")
    url = deployed.plane.deployed(APP_NAME)["api"].data.web_url
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60, verify=NO_TLS) as api:
        job_id = api.post("/v1/jobs", json={"workflow": SLOW}).json()["job_id"]
        deadline = time.monotonic() + 60
        while api.get(f"/v1/jobs/{job_id}").json()["status"] == "queued":
            assert time.monotonic() < deadline, deployed.plane.logs()
            time.sleep(0.1)
        late = subprocess.run(
            [sys.executable, "-c", TICKET],
            cwd=ROOT,
            env=clean_environment() | deployed.plane.client_env(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        status = json.loads(deployed.done("status", "--json"))
        api.delete(f"/v1/jobs/{job_id}")
    assert late.stdout == "late\n", late.stderr
    assert status["api"]["jobs"] == {"queued": 0, "running": 1}
    assert status["pools"]["default"]["load"] == {"waiting": 1, "running": 1, "containers": 1}


def test_destroy_stops_the_app_and_keeps_the_jobs(deployed: Shell) -> None:
    """`destroy` needs a confirmation, stops the app, deletes the models only with --models, and can be repeated."""
    state = deployed.plane.state
    listed = deployed.done("destroy", "--dry-run")
    assert f"ends: {APP_NAME}" in listed
    assert "stays: the bucket" in listed
    assert listed.endswith("nothing was removed\n")
    assert APP_NAME in state.published
    unconfirmed = deployed.command("destroy")
    assert (unconfirmed.returncode, "--yes" in unconfirmed.stdout) == (2, True), unconfirmed.stderr
    assert APP_NAME in state.published
    printed = deployed.done("destroy", "--yes")
    assert f"ends: {APP_NAME}" in printed
    assert "stays: the bucket" in printed
    assert APP_NAME not in state.published
    assert deployed.plane.containers_of("ComfyWorker.*") == []
    assert "comfyui-modal-models" in state.volumes
    assert json.loads(deployed.command("status", "--json").stdout)["missing"] == list(PARTS)
    assert "deleted for good: the volume" in deployed.done("destroy", "--yes", "--models")
    assert "comfyui-modal-models" not in state.volumes
    assert "nothing to do" in deployed.done("destroy", "--yes", "--models")
