"""An engine that cannot start, on the loopback control plane: its containers and jobs come to an end."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.on_modal import APP_NAME
from infra.settings import DeploymentSettings
from storage.bucket.s3 import S3Config
from tests.support.deployed import BLUE, Deployed, bucket_settings, deployed

POOLS = '{"h100": "H100", "cheap": "T4"}'
ROOT = Path(__file__).parents[2]
JOBS = 8
ENGINE = f"""\
import os, pathlib, runpy, sys, time
folder = pathlib.Path(__file__).parent
while not (folder / "submitted").exists():
    time.sleep(0.02)
if not (folder / "repaired").exists():
    with (folder / "starts").open("a") as starts:
        starts.write("start\\n")
    if (folder / "kills").exists():  # as the kernel does when memory runs out
        import psutil
        worker = next(p for p in psutil.Process().parents() if "supervise.py" not in " ".join(p.cmdline()))
        worker.kill()
    print("RuntimeError: no kernel image is available, secret-key-of-the-bucket")
    sys.exit(1)
sys.path.insert(0, {str(ROOT)!r})
runpy.run_module("workers.lite", run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ComfyUI that exits during its start until a file marks it as repaired."""
    folder = tmp_path_factory.mktemp("engine") / "comfyui"
    folder.mkdir()
    (folder / "main.py").write_text(ENGINE)
    return folder


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, folder: Path, s3_server: S3Config) -> Iterator[Deployed]:
    settings = bucket_settings(s3_server, "modal-engine") | {
        "engine": str(folder),
        "isolation": "off",
        "lease_s": 6,
        "huggingface_token": "secret-key-of-the-bucket",
    }
    with deployed(tmp_path_factory.mktemp("plane"), settings, COMFYUI_MODAL_GPU_POOLS=POOLS) as app:
        yield app


def _starts(folder: Path) -> int:
    starts = folder / "starts"
    return len(starts.read_text().splitlines()) if starts.exists() else 0


@pytest.mark.soak("contract/test_backlog.py::test_jobs_of_an_engine_that_cannot_start_fail")
def test_jobs_of_an_engine_that_cannot_start_fail(app: Deployed, folder: Path) -> None:
    """Three failed starts fail the jobs and pause their pool until its engine starts, while another pool runs jobs."""
    job_ids = [app.submit(BLUE) for _ in range(JOBS)]
    (folder / "submitted").touch()  # only jobs that are older than the last failure fail with it
    for job_id in job_ids:
        job = app.ended(job_id, is_swept=True)
        assert (job["status"], job["error_detail"]["code"]) == ("failed", "engine_unavailable"), app.plane.logs()
        assert re.match("the engine could not be started, [3-6] times in a row: the engine ended", job["error"])
        assert job["error_detail"]["log_tail"] == ["RuntimeError: no kernel image is available, …"]
    assert "secret-key" not in app.plane.logs()
    # Two failures leave the pool open; up to the maximum of containers can have started by the third.
    starts = _starts(folder)
    assert 3 <= starts <= 2 + DeploymentSettings().max_workers

    system = app.api.get("/v1/system").json()
    default, h100 = system["pools"][:2]
    assert (default["failed_starts"]["failures"], h100["failed_starts"]) == (starts, None)
    assert default["failed_starts"]["paused_until"] is not None

    waiting = app.submit(BLUE)
    app.plane.call(APP_NAME, "reap")
    assert app.job(waiting)["status"] == "queued"
    assert _starts(folder) == starts

    (folder / "repaired").touch()
    other = app.ended(app.submit(BLUE, gpu="h100"))
    assert other["status"] == "completed", app.plane.logs()
    app.plane.call(APP_NAME, "check_image")  # the last step of a deploy, which ends the pause
    job = app.ended(waiting, is_swept=True)
    assert job["status"] == "completed", app.plane.logs()
    assert app.api.get("/v1/system").json()["pools"][0]["failed_starts"] is None


@pytest.mark.soak("contract/test_backlog.py::test_jobs_fail_when_containers_die_during_their_start")
def test_a_container_killed_during_its_start_counts_as_a_failed_start(app: Deployed, folder: Path) -> None:
    """A killed container cannot report its failed start, which counts nevertheless, so that the job ends."""
    (folder / "repaired").unlink(missing_ok=True)
    for name in ("kills", "submitted"):
        (folder / name).touch()
    job = app.ended(app.submit(BLUE, gpu="cheap"), is_swept=True)
    assert (job["status"], job["error_detail"]["code"]) == ("failed", "engine_unavailable"), app.plane.logs()
    assert "its container ended while the engine was starting" in job["error"]
