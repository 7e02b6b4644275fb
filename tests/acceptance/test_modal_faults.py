"""Faults of Modal's containers and calls on the loopback control plane: an accepted job ends as promised."""

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
RUN_S, TICKET_S = 8, 4
"""Modal kills the container of a ticket after both."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Config) -> Iterator[Deployed]:
    settings = bucket_settings(s3_server, "modal-faults") | {"lease_s": 3, "max_attempts": 2}
    limits = {"COMFYUI_MODAL_CONTAINER_RUN_S": str(RUN_S), "COMFYUI_MODAL_TICKET_S": str(TICKET_S)}
    with deployed(tmp_path_factory.mktemp("plane"), settings, **limits) as app:
        yield app


@pytest.fixture(autouse=True)
def idle(app: Deployed) -> None:
    """Waits until no ticket of the previous test is left, whose time limit would end in this test."""
    app.until(lambda: not any(container.running for container in app.plane.containers_of(WORKER)))


def _make_ready(app: Deployed, count: int) -> None:
    """Starts this number of containers, which then wait for a ticket."""
    for job_id in [app.submit(slow(2)) for _ in range(count)]:
        app.ended(job_id)

    def ready() -> int:
        return sum("worker ready" in app.plane.log(container) for container in app.plane.containers_of(WORKER))

    app.until(lambda: ready() >= count)


def _busy(app: Deployed) -> Container:
    """The only container that holds a ticket."""
    (busy,) = (container for container in app.plane.containers_of(WORKER) if container.running)
    return busy


def _signal(container: Container, number: signal.Signals) -> None:
    assert container.process is not None
    container.process.send_signal(number)


def test_the_job_of_a_crashed_container_is_run_again(app: Deployed) -> None:
    """Modal delivers the ticket of a crashed container again, and the job starts again once its lease has expired."""
    job_id = app.submit(slow(4))
    app.runs(job_id)
    _signal(_busy(app), signal.SIGKILL)
    job = app.ended(job_id, is_swept=True)
    assert (job["status"], job["attempt"]) == ("completed", 2), f"{job}\n{app.plane.logs()}"
    assert len(job["outputs"]) == 1


def test_the_job_of_a_preempted_container_is_released(app: Deployed) -> None:
    """A preempted container releases its job at once, without an expired lease, a reaper or a lost attempt."""
    job_id = app.submit(slow(4))
    app.runs(job_id)
    _signal(_busy(app), signal.SIGINT)
    job = app.ended(job_id)
    assert (job["status"], job["last_fault"]) == ("completed", None), f"{job}\n{app.plane.logs()}"


@pytest.mark.soak("contract/test_reaper.py::test_a_job_that_loses_every_worker_fails")
def test_a_job_that_kills_its_containers_fails(app: Deployed) -> None:
    """A job that kills its containers fails after its attempts, although Modal would deliver its ticket for ever."""
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
def test_a_job_above_the_ticket_limit_fails(app: Deployed) -> None:
    """A job whose containers Modal kills at the ticket's time limit fails after its attempts."""
    job_id = app.submit(slow(3 * (RUN_S + TICKET_S)))
    job = app.ended(job_id, is_swept=True)
    assert (job["status"], job["error_detail"]["code"]) == ("failed", "worker_lost"), job


def test_a_ticket_that_is_delivered_twice_runs_one_job(app: Deployed) -> None:
    """A ticket that Modal delivers again to a second container finds no job there, and the job runs once."""
    _make_ready(app, 2)
    job_id = app.submit(slow(6))
    app.runs(job_id)
    (entry,) = _busy(app).running.values()
    app.plane.deliver_again(entry)
    job = app.ended(job_id)
    assert (job["status"], job["attempt"], len(job["outputs"])) == ("completed", 1, 1), job
    assert len({name for name in entry.attempts if name.startswith("ta-")}) > 1


def test_a_container_whose_engine_cannot_restart_exits(app: Deployed) -> None:
    """A container whose engine cannot be restarted takes no further ticket, and another container runs the job."""
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


def test_a_job_is_accepted_although_modal_refuses_its_ticket(app: Deployed) -> None:
    """A job whose ticket Modal refuses is accepted, and the reaper requests a worker again."""
    app.plane.state.refuses_calls_of = WORKER
    job_id = app.submit(BLUE)
    app.plane.state.refuses_calls_of = ""
    assert app.job(job_id)["status"] == "queued"
    job = app.ended(job_id, is_swept=True)
    assert job["status"] == "completed", f"{job}\n{app.plane.logs()}"


def test_jobs_outlive_modals_results(app: Deployed) -> None:
    """A job can be read after Modal has forgotten its call, because everything is in the bucket."""
    job_id = app.submit(BLUE)
    app.ended(job_id)
    app.plane.forget_ended_calls()
    assert app.job(job_id)["status"] == "completed"
    again = app.submit(BLUE)
    assert app.ended(again)["status"] == "completed"
