"""The app on the loopback control plane, deployed with the real command and its settings in a secret."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from infra.on_modal import APP_NAME
from infra.settings import ENV_PREFIX
from storage.bucket.s3 import S3Config
from tests.plane import Plane
from tests.support.commands import run_command
from tests.support.environment import clean_environment
from tests.support.plain_http import NO_TLS

KEY = "ck_test_modal"


def _image(color: int) -> dict[str, Any]:
    return {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 1, "color": color}}


BLUE = {
    "1": _image(255),
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}},
}


def slow(seconds: float) -> dict[str, Any]:
    """Return a graph in a colour that no engine has cached, with steps of a tenth of a second."""
    steps = {"image": ["1", 0], "steps": round(seconds * 10), "seconds_per_step": 0.1, "preview": False}
    return {
        "1": _image(secrets.randbelow(2**24)),
        "3": {"class_type": "LiteSlowSteps", "inputs": steps},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "slow"}},
    }


def bucket_settings(s3: S3Config, prefix: str) -> dict[str, Any]:
    return {
        "bucket": s3.bucket,
        "s3_endpoint": s3.endpoint_url,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
        "s3_prefix": prefix,
    }


class Deployed:
    """A deployed app; `variables` are the environment of the deploying shell."""

    def __init__(self, plane: Plane, settings: dict[str, Any], variables: dict[str, str]) -> None:
        self.plane = plane
        values = (f"{ENV_PREFIX}{name.upper()}={value}" for name, value in settings.items())
        self.run("modal", "secret", "create", APP_NAME, *values)
        self.run("modal", "deploy", "-m", "infra.modal_app", **variables)
        url = plane.deployed(APP_NAME)["api"].data.web_url
        self.api = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60, verify=NO_TLS)

    def run(self, module: str, *arguments: str, **variables: str) -> str:
        """Run a module in a shell that knows this plane, and return its output; it must succeed."""
        environment = clean_environment() | self.plane.client_env() | variables
        finished = run_command(module, *arguments, environment=environment)
        assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}\n{self.plane.missing}"
        return finished.stdout

    def submit(self, workflow: dict[str, Any], **options: Any) -> str:
        """Return the id of an accepted job."""
        accepted = self.api.post("/v1/jobs", json={"workflow": workflow, **options})
        assert accepted.status_code == 202, f"{accepted.text}\n{self.plane.logs()}"
        job_id: str = accepted.json()["job_id"]
        return job_id

    def job(self, job_id: str, wait_s: int = 0) -> dict[str, Any]:
        answer = self.api.get(f"/v1/jobs/{job_id}", params={"wait": wait_s} if wait_s else {})
        assert answer.status_code == 200, f"{answer.text}\n{self.plane.logs()}"
        job: dict[str, Any] = answer.json()
        return job

    def ended(self, job_id: str, *, is_swept: bool = False) -> dict[str, Any]:
        """Return the job once it has ended. With `is_swept` the reaper is called meanwhile, like its schedule in the
        cloud."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            job = self.job(job_id, wait_s=1 if is_swept else 10)
            if job["status"] in ("completed", "failed"):
                return job
            if is_swept:
                self.plane.call(APP_NAME, "reap")
        raise AssertionError(self.plane.logs())

    def runs(self, job_id: str) -> None:
        """Wait until a worker has claimed the job."""
        self.until(lambda: self.job(job_id)["status"] != "queued", 60)

    def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        """Poll until the condition holds, or fail with the containers' logs."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.plane.logs()
            time.sleep(0.1)


@contextmanager
def deployed(folder: Path, settings: dict[str, Any], **variables: str) -> Iterator[Deployed]:
    """Deploy the app, with the lite engine unless the settings name another. Calls that the plane does not implement
    fail the test at the end."""
    with Plane(folder, container_env={"PATH": os.environ["PATH"]}) as plane:
        plane.state.container_env = dict(plane.state.container_env) | plane.client_env()
        app = Deployed(plane, {"engine": "lite"} | settings | {"api_key": KEY}, variables)
        try:
            yield app
        finally:
            app.api.close()
        assert dict(plane.missing) == {}, plane.missing
