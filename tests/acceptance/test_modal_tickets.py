"""Tickets on the loopback control plane: containers drain the queue, and tickets that no job needs are withdrawn."""

import signal
from collections import Counter
from collections.abc import Iterator

import pytest

from storage.bucket.s3 import S3Config
from tests.plane.state import Container, Input
from tests.support.deployed import Deployed, bucket_settings, deployed, slow

WORKER = "ComfyWorker.*"
CONTAINERS = 2
JOBS = 20


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Config) -> Iterator[Deployed]:
    settings = bucket_settings(s3_server, "modal-tickets") | {"lease_s": 3, "max_attempts": 3}
    with deployed(tmp_path_factory.mktemp("plane"), settings, COMFYUI_MODAL_MAX_WORKERS=str(CONTAINERS)) as app:
        yield app


@pytest.fixture(autouse=True)
def tickets(app: Deployed) -> list[Input]:
    """Waits until no ticket of the previous test is left, and returns the list of its tickets."""
    app.until(lambda: not _running(app) and not _waiting(app))
    return list(app.plane.state.inputs.values())


def _tickets(app: Deployed, before: list[Input]) -> list[Input]:
    """Returns the tickets since the start of the test."""
    known = {id(entry) for entry in before}
    functions = app.plane.state.functions
    return [
        entry
        for entry in app.plane.state.inputs.values()
        if id(entry) not in known and functions[entry.call.function_id].data.function_name == WORKER
    ]


def _running(app: Deployed) -> list[Container]:
    return [container for container in app.plane.containers_of(WORKER) if container.running]


def _waiting(app: Deployed) -> int:
    functions = app.plane.state.functions.values()
    return sum(len(function.queue) for function in functions if function.data.function_name == WORKER)


def test_twenty_jobs_need_few_tickets(app: Deployed, tickets: list[Input]) -> None:
    """Two containers run 20 jobs with at most 2 tickets each beyond the first, and no ticket is left."""
    jobs = [app.submit(slow(0.2)) for _ in range(JOBS)]
    assert _waiting(app) <= CONTAINERS
    ended = [app.ended(job_id) for job_id in jobs]
    assert {job["status"] for job in ended} == {"completed"}, app.plane.logs()
    app.until(lambda: not _running(app) and not _waiting(app))
    spawned = _tickets(app, tickets)
    taken = Counter(name for entry in spawned for name in entry.attempts)
    assert len(taken) <= CONTAINERS
    assert max(taken.values()) <= 3, taken
    assert len(spawned) <= 4 * CONTAINERS


def test_no_job_is_lost_with_a_container_that_drains(app: Deployed, tickets: list[Input]) -> None:
    """The jobs of a queue complete although a container is killed, and another one preempted, while it drains."""
    jobs = [app.submit(slow(0.4)) for _ in range(JOBS // 2)]
    for number, blow in ((1, signal.SIGKILL), (4, signal.SIGINT)):
        app.ended(jobs[number], is_swept=True)
        app.until(lambda: bool(_running(app)))
        process = _running(app)[0].process
        assert process is not None
        process.send_signal(blow)
    ended = [app.ended(job_id, is_swept=True) for job_id in jobs]
    assert {job["status"] for job in ended} == {"completed"}, app.plane.logs()
    assert [len(job["outputs"]) for job in ended] == [1] * len(jobs)
    lost = [job for job in ended if job["last_fault"] is not None]
    assert len(lost) <= 1, "only the job of the killed container has lost an attempt"
    assert len(_tickets(app, tickets)) <= len(jobs)


def test_the_ticket_of_a_cancelled_job_is_withdrawn(app: Deployed, tickets: list[Input]) -> None:
    """The ticket of a job that is cancelled in the queue is withdrawn, and no container takes it."""
    running = [app.submit(slow(30)) for _ in range(CONTAINERS)]
    for job_id in running:
        app.runs(job_id)
    waiting = app.submit(slow(1))
    assert _waiting(app) == 1
    assert app.api.delete(f"/v1/jobs/{waiting}").json()["status"] == "failed"
    assert _waiting(app) == 0
    for job_id in running:
        app.api.delete(f"/v1/jobs/{job_id}")
        app.ended(job_id)
    (withdrawn,) = (entry for entry in _tickets(app, tickets) if entry.call.cancelled)
    assert withdrawn.attempts == []


def test_a_ticket_that_is_withdrawn_too_late_completes_its_job(app: Deployed, tickets: list[Input]) -> None:
    """A container completes the job of a ticket that is cancelled while it runs, without running it again."""
    job_id = app.submit(slow(4))
    app.runs(job_id)
    started_at = app.job(job_id)["started_at"]
    later = app.submit(slow(0.2))
    (entry, *_) = _tickets(app, tickets)
    app.plane.cancel(entry.call)
    job = app.ended(job_id)
    assert (job["status"], job["started_at"], job["last_fault"]) == ("completed", started_at, None), app.plane.logs()
    assert app.ended(later)["status"] == "completed"
