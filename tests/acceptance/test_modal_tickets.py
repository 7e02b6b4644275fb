"""Tickets on the loopback control plane: containers drain the queue, and tickets that no job needs are withdrawn."""

import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from storage.bucket.s3 import S3Config
from tests.plane.state import Container, Input
from tests.support.deployed import Deployed, bucket_settings, deployed, slow
from tests.support.faulty_proxy import FaultyProxy, faulty_proxy
from tests.support.plain_http import NO_TLS

WORKER = "ComfyWorker.*"
CONTAINERS = 2
JOBS = 20


@pytest.fixture(scope="module")
def bucket(s3_server: S3Config) -> Iterator[FaultyProxy]:
    """The proxy through which the app reaches its bucket."""
    assert s3_server.endpoint_url is not None
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(faulty_proxy(s3_server.endpoint_url)) as proxy,
    ):
        yield proxy


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Config, bucket: FaultyProxy) -> Iterator[Deployed]:
    settings = bucket_settings(replace(s3_server, endpoint_url=bucket.url), "modal-tickets")
    settings |= {"lease_s": 3, "max_attempts": 3}
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


def _send(signal_number: signal.Signals, app: Deployed) -> None:
    """Send a signal to a container that has a ticket."""
    process = _running(app)[0].process
    assert process is not None
    process.send_signal(signal_number)


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
    jobs = [app.submit(slow(seconds)) for seconds in [0.4] * (JOBS // 2) + [3]]
    app.ended(jobs[1])
    _send(signal.SIGKILL, app)
    app.runs(jobs[-1])  # long enough for a container to be running it
    _send(signal.SIGINT, app)
    ended = [app.ended(job_id, is_swept=True) for job_id in jobs]
    assert {job["status"] for job in ended} == {"completed"}, app.plane.logs()
    assert [len(job["outputs"]) for job in ended] == [1] * len(jobs)
    lost = [job for job in ended if job["last_fault"] is not None]
    assert len(lost) <= 2, "only the job that the killed container executed and the one that it uploaded"
    assert len(_tickets(app, tickets)) <= len(jobs)


def test_no_job_is_lost_with_a_container_that_overlaps(
    app: Deployed, bucket: FaultyProxy, tickets: list[Input]
) -> None:
    """Both jobs of a container that is killed while it uploads one and executes the other complete."""
    elsewhere = app.submit(slow(60))
    app.runs(elsewhere)
    (other,) = _running(app)
    uploading = app.submit(slow(1))
    bucket.held = upload = f"/{uploading}/outputs/001/"
    app.until(lambda: any(upload in path for _, path in bucket.seen))
    executing = app.submit(slow(4))
    app.until(lambda: app.job(executing)["progress_details"]["current_node"] is not None)
    jobs = [app.job(job_id) for job_id in (uploading, executing)]
    assert [job["status"] for job in jobs] == ["running"] * 2
    assert len({job["runtime"]["worker"] for job in jobs}) == 1
    (both,) = (container.process for container in _running(app) if container is not other)
    assert both is not None
    both.send_signal(signal.SIGKILL)
    ended = [app.ended(job_id, is_swept=True) for job_id in (uploading, executing)]
    assert [(job["status"], job["attempt"]) for job in ended] == [("completed", 2)] * 2, app.plane.logs()
    for job in ended:
        (output,) = job["outputs"]
        assert httpx.get(output["url"], verify=NO_TLS).status_code == 200
    app.api.delete(f"/v1/jobs/{elsewhere}")
    app.ended(elsewhere)


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
