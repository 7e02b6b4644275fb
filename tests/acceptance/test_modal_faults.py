"""What Modal does to containers and calls, caused on the loopback control plane: an accepted job ends as promised."""

import shutil
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from infra.on_modal import APP_NAME
from storage.bucket.s3 import S3Config
from tests.plane.state import Container
from tests.support.deployed import BLUE, Deployed, bucket_settings, deployed, slow

WORKER = "ComfyWorker.*"
RUN_S = 12
"""How long a container may hold one ticket: one that hangs is killed then."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Config) -> Iterator[Deployed]:
    settings = bucket_settings(s3_server, "modal-faults") | {"lease_s": 3, "max_attempts": 2}
    with deployed(tmp_path_factory.mktemp("plane"), settings, COMFYUI_MODAL_CONTAINER_RUN_S=str(RUN_S)) as app:
        yield app


@pytest.fixture(autouse=True)
def idle(app: Deployed) -> None:
    """No ticket is left of the test before, whose time would end in this one."""
    app.until(lambda: not any(container.running for container in app.plane.containers_of(WORKER)))


def _make_ready(app: Deployed, count: int) -> None:
    """So many containers that wait for a ticket."""
    for job_id in [app.submit(slow(2)) for _ in range(count)]:
        app.ended(job_id)

    def ready() -> int:
        return sum("worker ready" in app.plane.log(container) for container in app.plane.containers_of(WORKER))

    app.until(lambda: ready() >= count)


def _busy(app: Deployed) -> Container:
    """The one container that holds a ticket."""
    (busy,) = (container for container in app.plane.containers_of(WORKER) if container.running)
    return busy


def _signal(container: Container, number: signal.Signals) -> None:
    assert container.process is not None
    container.process.send_signal(number)


def test_a_container_that_crashes(app: Deployed) -> None:
    """Modal delivers its ticket again; the job begins again once its lease has ended."""
    job_id = app.submit(slow(4))
    app.runs(job_id)
    _signal(_busy(app), signal.SIGKILL)
    job = app.ended(job_id, is_swept=True)
    assert (job["status"], job["attempt"]) == ("completed", 2), f"{job}\n{app.plane.logs()}"
    assert len(job["outputs"]) == 1


def test_a_container_that_is_preempted(app: Deployed) -> None:
    """Its job is given back at once, and no attempt is lost: no lease has to end, no reaper is needed."""
    job_id = app.submit(slow(4))
    app.runs(job_id)
    _signal(_busy(app), signal.SIGINT)
    job = app.ended(job_id)
    assert (job["status"], job["last_fault"]) == ("completed", None), f"{job}\n{app.plane.logs()}"


@pytest.mark.soak("contract/test_reaper.py::test_a_job_that_loses_every_worker_fails")
def test_a_job_that_takes_its_container_with_it(app: Deployed) -> None:
    """Modal would deliver its ticket for ever: our own attempts end it."""
    job_id = app.submit(slow(8))
    for _ in range(2):
        app.runs(job_id)
        attempt = app.job(job_id)["attempt"]
        _signal(_busy(app), signal.SIGKILL)
        while (job := app.job(job_id))["status"] == "running" and job["attempt"] == attempt:
            app.plane.call(APP_NAME, "reap")
            time.sleep(0.2)
    job = app.ended(job_id, is_swept=True)
    assert (job["status"], job["error_detail"]["code"]) == ("failed", "worker_lost"), job


@pytest.mark.soak("contract/test_reaper.py::test_a_job_that_loses_every_worker_fails")
def test_a_ticket_that_takes_too_long(app: Deployed) -> None:
    """Modal kills its container; a job that never gets further is given up after its attempts."""
    job_id = app.submit(slow(3 * RUN_S))
    job = app.ended(job_id, is_swept=True)
    assert (job["status"], job["error_detail"]["code"]) == ("failed", "worker_lost"), job


def test_a_ticket_that_is_delivered_twice(app: Deployed) -> None:
    """Modal takes a container that works for one that is dead: the job runs once, the second one finds nothing."""
    _make_ready(app, 2)
    job_id = app.submit(slow(6))
    app.runs(job_id)
    (entry,) = _busy(app).running.values()
    app.plane.deliver_again(entry)
    job = app.ended(job_id)
    assert (job["status"], job["attempt"], len(job["outputs"])) == ("completed", 1, 1), job
    assert len({name for name in entry.attempts if name.startswith("ta-")}) > 1


def test_an_engine_that_cannot_be_started_again(app: Deployed) -> None:
    """Its container takes no other ticket, so that it does not swallow them all; another one runs the job."""
    app.ended(app.submit(BLUE))
    broken = app.plane.containers_of(WORKER)
    for container in broken:
        assert container.process is not None
        shutil.rmtree(container.folder / "fs" / "root" / "workers" / "lite")
        for child in psutil.Process(container.process.pid).children(recursive=True):
            child.kill()
    job = app.ended(app.submit(BLUE), is_swept=True)
    assert job["status"] == "completed", f"{job}\n{app.plane.logs()}"
    ended = [container for container in broken if container.process and container.process.returncode is not None]
    assert ended, app.plane.logs()


def test_no_room_for_another_ticket(app: Deployed) -> None:
    """ResourceExhausted at the spawn: the job is accepted all the same, and the reaper asks again."""
    app.plane.state.refuses_calls_of = WORKER
    job_id = app.submit(BLUE)
    app.plane.state.refuses_calls_of = ""
    assert app.job(job_id)["status"] == "queued"
    job = app.ended(job_id, is_swept=True)
    assert job["status"] == "completed", f"{job}\n{app.plane.logs()}"


def test_results_that_modal_has_forgotten(app: Deployed) -> None:
    """After seven days a call cannot be looked up any more: what a job was and made lies in the bucket."""
    job_id = app.submit(BLUE)
    app.ended(job_id)
    app.plane.forget_ended_calls()
    assert app.job(job_id)["status"] == "completed"
    again = app.submit(BLUE)
    assert app.ended(again)["status"] == "completed"
