"""Faulty receivers of every kind, with kills of the deliverer and the S3 server, lose no event."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from standardwebhooks import Webhook

from tests.support.killer import processes_on
from tests.support.plain_http import NO_TLS
from tests.support.receiver import Behaviour, Received, Receiver, receiver
from tests.support.up import Up, eventually, finished, up

pytestmark = pytest.mark.chaos

EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255}}
BLUE = {"1": EMPTY, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}}}
STEPS = {"image": ["1", 0], "steps": 100, "seconds_per_step": 0.1, "preview": False}
ENDLESS = {
    "1": EMPTY,
    "2": {"class_type": "LiteSlowSteps", "inputs": STEPS},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "late"}},
}

QUICK = {
    "COMFYUI_MODAL_WEBHOOK_RETRY_SCALE": "0.00005",  # scales 76 hours to a quarter of a minute
    "COMFYUI_MODAL_WEBHOOK_TIMEOUT_S": "1",
    "COMFYUI_MODAL_DELIVER_POLL_S": "0.2",
}
HANGS: tuple[Behaviour, ...] = ("hang",) * 6
BAD_DAY: tuple[Behaviour, ...] = ("500", "500", "500", *HANGS, "cut", "cut", "429", "500")
KILLS: tuple[tuple[Behaviour, str], ...] = (
    ("hang", "deliverer"),
    ("hang", "deliverer"),
    ("500", "s3"),
    ("500", "deliverer"),
)
"""A receiver's behaviour, and the process that is killed during it."""
KILLS_IN_SHORT = KILLS[1:3]
JOBS, JOBS_IN_SHORT = 6, 3
SETTLE_S = 150.0
"""Longer than the lease of an attempt whose deliverer was killed (18 s), and longer than the retry schedule."""


def test_every_event_arrives_or_is_a_dead_letter(tmp_path: Path, is_long: bool) -> None:
    """Events to receivers that fail, hang, disconnect, delay, refuse for good or work arrive or become dead letters."""
    data = tmp_path / "data"
    with receiver() as hooks, up(data, "--workers", "2", environment=QUICK) as running:
        hooks.script("bad-day", BAD_DAY)
        hooks.script("gone", ["410"] * 100)
        hooks.script("down", ["500"] * 10_000)
        with running.client() as client:
            urls = {path: hooks.url(path) for path in ("bad-day", "gone", "down", "healthy")}
            jobs = _submit(client, urls, JOBS if is_long else JOBS_IN_SHORT)
            for behaviour, victim in KILLS if is_long else KILLS_IN_SHORT:
                _wait_for_a_request(hooks, behaviour)
                _kill(running, victim)
            for job_id in (job_id for ids in jobs.values() for job_id in ids):
                finished(client, job_id)
            _wait_until_settled(client, hooks, jobs)
            _check_what_arrived(client, running, hooks, jobs)
            _check_gone_receiver(client, hooks)
            _check_replay(client, hooks, jobs["down"])
    _, alive = psutil.wait_procs(processes_on(data), timeout=5)
    assert not alive


def _submit(client: httpx.Client, urls: dict[str, str], count: int) -> dict[str, list[str]]:
    """Submits jobs for each receiver in turn and returns their ids; every third job of a receiver times out."""
    ids: dict[str, list[str]] = {path: [] for path in urls}
    for number in range(count):
        document = {"workflow": ENDLESS, "timeout_s": 1} if number % 3 == 2 else {"workflow": BLUE}
        for path, url in urls.items():
            answer = client.post("/v1/jobs", json={**document, "webhook_url": url})
            assert answer.status_code == 202, answer.text
            ids[path].append(answer.json()["job_id"])
    return ids


def _wait_for_a_request(hooks: Receiver, behaviour: Behaviour) -> None:
    """Waits for another request with this behaviour, so that its attempt is in progress or has just ended."""
    known = len(hooks.requests)
    eventually(lambda: any(received.answered == behaviour for received in hooks.requests[known:]))


def _kill(running: Up, name: str) -> None:
    """Kills the process with SIGKILL and waits for its restart."""
    pid = running.connection["processes"][name]
    psutil.Process(pid).kill()
    eventually(lambda: running.connection["processes"][name] != pid)


def _wait_until_settled(client: httpx.Client, hooks: Receiver, jobs: dict[str, list[str]]) -> None:
    """Waits until every event was accepted or is a dead letter."""
    missing = {_event_id(job_id): job_id for ids in jobs.values() for job_id in ids}
    deadline = time.monotonic() + SETTLE_S
    while missing and time.monotonic() < deadline:
        time.sleep(1)
        seen = {event_id for path in jobs for event_id in hooks.taken(path)} | _dead_letters(client).keys()
        missing = {event_id: job_id for event_id, job_id in missing.items() if event_id not in seen}
    assert not missing, [client.get(f"/v1/jobs/{job_id}/deliveries").json() for job_id in missing.values()]


def _check_what_arrived(client: httpx.Client, running: Up, hooks: Receiver, jobs: dict[str, list[str]]) -> None:
    secret = Webhook(running.connection["webhook_secret"])
    for path, job_ids in jobs.items():
        for received in hooks.on(path):
            secret.verify(received.body, dict(received.headers))
            assert received.event["id"] == received.headers["webhook-id"]
            assert received.headers["webhook-id"] in {_event_id(job_id) for job_id in job_ids}
    unrecorded = 0
    for path in ("bad-day", "healthy"):
        for job_id in jobs[path]:
            attempts = _check_job(client, hooks.taken(path)[_event_id(job_id)][-1], job_id)
            requests = [request for request in hooks.on(path) if request.headers["webhook-id"] == _event_id(job_id)]
            assert requests == sorted(requests, key=lambda request: int(request.headers["webhook-timestamp"]))
            unrecorded += len(requests) - attempts
    assert unrecorded > 0, "no kill hit an attempt in progress"
    answers = Counter(received.answered for received in hooks.on("bad-day"))
    assert all(answers[behaviour] >= 1 for behaviour in BAD_DAY), answers
    first_of_healthy = min(
        hooks.requests.index(hooks.taken("healthy")[_event_id(job_id)][0]) for job_id in jobs["healthy"]
    )
    later = Counter(received.path for received in hooks.requests[first_of_healthy:])
    assert later["bad-day"] > 0, "the healthy receiver had to wait"


def _check_job(client: httpx.Client, received: Received, job_id: str) -> int:
    """Checks that the event equals the job and that its URLs work, and returns the number of recorded attempts."""
    event, job = received.event, client.get(f"/v1/jobs/{job_id}").json()
    assert (event["subject"], event["data"]["status"]) == (job_id, job["status"])
    assert event["type"] == f"comfyui.job.{job['status']}.v1"
    for output in event["data"]["outputs"]:
        assert len(httpx.get(output["url"], verify=NO_TLS).content) == output["size_bytes"]
    (delivery,) = client.get(f"/v1/jobs/{job_id}/deliveries").json()["deliveries"]
    numbers = [attempt["number"] for attempt in delivery["attempts"]]
    assert delivery["status"] == "delivered"
    assert numbers == list(range(1, len(numbers) + 1))
    return len(numbers)


def _check_gone_receiver(client: httpx.Client, hooks: Receiver) -> None:
    """Checks that a receiver with 410 gets no more requests and that its events are dead letters."""
    endpoints = {endpoint["url"]: endpoint for endpoint in client.get("/v1/webhooks/endpoints").json()["endpoints"]}
    assert endpoints[hooks.url("gone")]["state"] == "disabled"
    assert endpoints[hooks.url("healthy")]["state"] == "closed"
    before = len(hooks.on("gone"))
    job_id = client.post("/v1/jobs", json={"workflow": BLUE, "webhook_url": hooks.url("gone")}).json()["job_id"]
    finished(client, job_id)
    eventually(lambda: _event_id(job_id) in _dead_letters(client))
    assert len(hooks.on("gone")) == before


def _check_replay(client: httpx.Client, hooks: Receiver, job_ids: list[str]) -> None:
    """Checks that dead letters arrive with their original ids once the receiver works."""
    ids = [_event_id(job_id) for job_id in job_ids]
    dead = _dead_letters(client)
    assert all(dead[event_id]["attempts"][-1]["status"] == 500 for event_id in ids)
    hooks.script("down", ())
    replayed = client.post("/v1/dead-letters/replay", json={"event_ids": ids}).json()["replayed"]
    assert sorted(replayed) == sorted(ids)
    eventually(lambda: hooks.taken("down").keys() == set(ids))
    eventually(lambda: not set(ids) & _dead_letters(client).keys())


def _dead_letters(client: httpx.Client) -> dict[str, Any]:
    """The dead letters by event id."""
    return {letter["event_id"]: letter for letter in client.get("/v1/dead-letters?limit=100").json()["dead_letters"]}


def _event_id(job_id: str) -> str:
    """The id of a job's only event, which reports its end."""
    return f"evt_{job_id}_000001"
