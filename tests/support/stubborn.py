"""A client that retries, and the guarantees that it checks.

A request that was lost or answered 5xx is repeated unchanged; a submission is repeated with its Idempotency-Key.
"""

import hashlib
import io
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx
from PIL import Image

from tests.support.plain_http import NO_TLS
from tests.support.up import Up

Json = dict[str, Any]

STEP_S = 0.1
REPEAT_S = 0.2
PATIENCE_S = 120.0
"""The time for which one request is repeated, longer than any outage and than the client's own time-out."""
MOST_PICTURES = 3


@dataclass(frozen=True)
class Order:
    """A job to be made: `pictures` in a colour that no other order has. It takes `steps` tenths of a second."""

    number: int
    steps: int
    pictures: int

    @classmethod
    def drawn(cls, number: int, chance: random.Random) -> "Order":
        """Return a random order: every fourth is quick, the others take up to three seconds, so that they can be
        interrupted."""
        return cls(number, 0 if number % 4 == 0 else chance.randint(10, 30), chance.randint(1, MOST_PICTURES))

    @property
    def key(self) -> str:
        return f"order-{self.number}"

    @property
    def colour(self) -> tuple[int, int, int]:
        return (self.number, 255 - self.number, 128)

    @cached_property
    def workflow(self) -> Json:
        red, green, blue = self.colour
        blank = {"width": 16, "height": 16, "batch_size": 1, "color": red << 16 | green << 8 | blue}
        steps = {"image": ["1", 0], "steps": self.steps, "seconds_per_step": STEP_S, "preview": True}
        graph: Json = {"1": {"class_type": "EmptyImage", "inputs": blank}}
        if self.steps:
            graph["2"] = {"class_type": "LiteSlowSteps", "inputs": steps}
        for picture in range(self.pictures):
            save = {"images": ["2" if self.steps else "1", 0], "filename_prefix": f"picture-{picture}"}
            graph[str(10 + picture)] = {"class_type": "SaveImage", "inputs": save}
        return graph


class StubbornClient:
    """A client made by `stubborn`, which several threads may share."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def submit(self, order: Order) -> str:
        """Return the id of the job."""
        answer = self.submission(order)
        assert answer.status_code in (200, 202), answer.text
        job_id: str = answer.json()["job_id"]
        return job_id

    def submission(self, order: Order) -> httpx.Response:
        body = {"workflow": order.workflow, "metadata": {"order": order.key}}
        return self.request("POST", "/v1/jobs", json=body, headers={"idempotency-key": order.key})

    def job(self, job_id: str, *, wait_s: int = 0) -> Json:
        job: Json = self.request("GET", f"/v1/jobs/{job_id}" + (f"?wait={wait_s}" if wait_s else "")).json()
        return job

    def ended(self, job_id: str, deadline: float) -> Json:
        """Return the job once it has ended; `deadline` is in monotonic time."""
        while (job := self.job(job_id, wait_s=5))["status"] not in ("completed", "failed"):
            assert time.monotonic() < deadline, f"not over in time: {job}"
        return job

    def listed(self) -> list[str]:
        """Return the ids of all jobs, page by page."""
        ids: list[str] = []
        cursor = ""
        while True:
            page = self.request("GET", f"/v1/jobs?limit=25{cursor}").json()
            ids += [row["job_id"] for row in page["jobs"]]
            if page["next_cursor"] is None:
                return ids
            cursor = f"&cursor={page['next_cursor']}"

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self._http.request(method, path, **options)
                if answer.status_code < 500:
                    return answer
                lost = f"{answer.status_code} {answer.text}"
            except httpx.TransportError as error:
                lost = repr(error)
            assert time.monotonic() < deadline, f"{method} {path}: {lost}"
            time.sleep(REPEAT_S)


@contextmanager
def stubborn(running: Up) -> Iterator[StubbornClient]:
    with running.client() as http:
        yield StubbornClient(http)


def check_each_order_made_one_job(client: StubbornClient, accepted: dict[Order, str]) -> None:
    """Check that no job is lost or duplicated and that each key still returns its job."""
    listed = client.listed()
    assert sorted(listed) == sorted(accepted.values())
    for order, job_id in accepted.items():
        replay = client.submission(order)
        assert (replay.status_code, replay.json()["job_id"]) == (200, job_id), replay.text


def check_is_whole(order: Order, job: Json) -> None:
    """Check that a job has all of its own pictures from one attempt, each downloadable and as recorded."""
    assert (job["status"], job["metadata"]) == ("completed", {"order": order.key}), job
    assert [output["node_id"] for output in job["outputs"]] == [str(10 + n) for n in range(order.pictures)], job
    assert {_attempt_of(output["url"]) for output in job["outputs"]} == {job["attempt"]}, job
    for output in job["outputs"]:
        body = httpx.get(output["url"], timeout=30, verify=NO_TLS).content
        assert (len(body), hashlib.sha256(body).hexdigest()) == (output["size_bytes"], output["sha256"]), output
        with Image.open(io.BytesIO(body)) as picture:
            assert picture.convert("RGB").getpixel((8, 8)) == order.colour


def _attempt_of(url: str) -> int:
    found = re.search(r"/outputs/(\d+)/", url)
    assert found, url
    return int(found[1])
