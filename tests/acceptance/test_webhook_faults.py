"""Events among receivers that fail in every way, while the deliverer and the S3 server are killed: none is lost."""

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
    "COMFYUI_MODAL_WEBHOOK_RETRY_SCALE": "0.00005",  # 76 hours in a quarter of a minute
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
"""Who is killed, and what a receiver was just doing."""
KILLS_IN_SHORT = KILLS[1:3]
JOBS, JOBS_IN_SHORT = 6, 3
SETTLE_S = 150.0
"""Longer than the lease of an attempt whose deliverer was killed (18 s), and than the schedule."""


def test_every_event_arrives_or_is_a_dead_letter(tmp_path: Path, is_long: bool) -> None:
    """Receivers that answer 500, hang, break off, ask for patience or refuse for good; and one that is well."""
    data = tmp_path / "data"
    with receiver() as there, up(data, "--workers", "2", environment=QUICK) as running:
        there.script("bad-day", BAD_DAY)
        there.script("gone", ["410"] * 100)
        there.script("down", ["500"] * 10_000)
        with running.client() as client:
            urls = {path: there.url(path) for path in ("bad-day", "gone", "down", "well")}
            jobs = _submit(client, urls, JOBS if is_long else JOBS_IN_SHORT)
            for behaviour, victim in KILLS if is_long else KILLS_IN_SHORT:
                _wait_for_a_request(there, behaviour)
                _kill(running, victim)
            for job_id in (job_id for ids in jobs.values() for job_id in ids):
                finished(client, job_id)
            _wait_until_settled(client, there, jobs)
            _check_what_arrived(client, running, there, jobs)
            _check_who_is_gone(client, there)
            _check_replay(client, there, jobs["down"])
    _, alive = psutil.wait_procs(processes_on(data), timeout=5)
    assert not alive


def _submit(client: httpx.Client, urls: dict[str, str], count: int) -> dict[str, list[str]]:
    """Ids of jobs, by receiver, taking turns; every third of each fails by its timeout."""
    ids: dict[str, list[str]] = {path: [] for path in urls}
    for number in range(count):
        wanted = {"workflow": ENDLESS, "timeout_s": 1} if number % 3 == 2 else {"workflow": BLUE}
        for path, url in urls.items():
            answer = client.post("/v1/jobs", json={**wanted, "webhook_url": url})
            assert answer.status_code == 202, answer.text
            ids[path].append(answer.json()["job_id"])
    return ids


def _wait_for_a_request(there: Receiver, behaviour: Behaviour) -> None:
    """Until one more has met this: its attempt is under way, or has just ended."""
    known = len(there.requests)
    eventually(lambda: any(received.answered == behaviour for received in there.requests[known:]))


def _kill(running: Up, name: str) -> None:
    """kill -9, and wait until it has come back."""
    pid = running.connection["processes"][name]
    psutil.Process(pid).kill()
    eventually(lambda: running.connection["processes"][name] != pid)


def _wait_until_settled(client: httpx.Client, there: Receiver, jobs: dict[str, list[str]]) -> None:
    """Every event was taken, or stands in the dead letters."""
    missing = {_event_id(job_id): job_id for ids in jobs.values() for job_id in ids}
    deadline = time.monotonic() + SETTLE_S
    while missing and time.monotonic() < deadline:
        time.sleep(1)
        seen = {event_id for path in jobs for event_id in there.taken(path)} | _dead_letters(client).keys()
        missing = {event_id: job_id for event_id, job_id in missing.items() if event_id not in seen}
    assert not missing, [client.get(f"/v1/jobs/{job_id}/deliveries").json() for job_id in missing.values()]


def _check_what_arrived(client: httpx.Client, running: Up, there: Receiver, jobs: dict[str, list[str]]) -> None:
    secret = Webhook(running.connection["webhook_secret"])
    for path, job_ids in jobs.items():
        for received in there.on(path):
            secret.verify(received.body, dict(received.headers))
            assert received.event["id"] == received.headers["webhook-id"]
            assert received.headers["webhook-id"] in {_event_id(job_id) for job_id in job_ids}
    unrecorded = 0
    for path in ("bad-day", "well"):
        for job_id in jobs[path]:
            attempts = _check_job(client, there.taken(path)[_event_id(job_id)][-1], job_id)
            requests = [one for one in there.on(path) if one.headers["webhook-id"] == _event_id(job_id)]
            assert requests == sorted(requests, key=lambda one: int(one.headers["webhook-timestamp"]))
            unrecorded += len(requests) - attempts
    assert unrecorded > 0, "no kill hit an attempt that was under way"
    answers = Counter(received.answered for received in there.on("bad-day"))
    assert all(answers[behaviour] >= 1 for behaviour in BAD_DAY), answers
    first_of_well = min(there.requests.index(there.taken("well")[_event_id(job_id)][0]) for job_id in jobs["well"])
    later = Counter(received.path for received in there.requests[first_of_well:])
    assert later["bad-day"] > 0, "the one that was well waited"


def _check_job(client: httpx.Client, received: Received, job_id: str) -> int:
    """The event tells the job as GET does; its URLs were fresh when it was sent. How many attempts are recorded."""
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


def _check_who_is_gone(client: httpx.Client, there: Receiver) -> None:
    """410 ends it at once: nothing more is sent there, and its events are dead letters."""
    endpoints = {one["url"]: one for one in client.get("/v1/webhooks/endpoints").json()["endpoints"]}
    assert endpoints[there.url("gone")]["state"] == "disabled"
    assert endpoints[there.url("well")]["state"] == "closed"
    before = len(there.on("gone"))
    job_id = client.post("/v1/jobs", json={"workflow": BLUE, "webhook_url": there.url("gone")}).json()["job_id"]
    finished(client, job_id)
    eventually(lambda: _event_id(job_id) in _dead_letters(client))
    assert len(there.on("gone")) == before


def _check_replay(client: httpx.Client, there: Receiver, job_ids: list[str]) -> None:
    """Once the receiver is well, the dead letters arrive with the ids that they always had."""
    ids = [_event_id(job_id) for job_id in job_ids]
    dead = _dead_letters(client)
    assert all(dead[event_id]["attempts"][-1]["status"] == 500 for event_id in ids)
    there.script("down", ())
    replayed = client.post("/v1/dead-letters/replay", json={"event_ids": ids}).json()["replayed"]
    assert sorted(replayed) == sorted(ids)
    eventually(lambda: there.taken("down").keys() == set(ids))
    eventually(lambda: not set(ids) & _dead_letters(client).keys())


def _dead_letters(client: httpx.Client) -> dict[str, Any]:
    """By event id."""
    return {letter["event_id"]: letter for letter in client.get("/v1/dead-letters?limit=100").json()["dead_letters"]}


def _event_id(job_id: str) -> str:
    """Each job tells of its end only."""
    return f"evt_{job_id}_000001"
