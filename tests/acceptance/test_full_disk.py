"""`up` on a disk that fills up: new work is refused, and everything continues by itself once there is space."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.disks import filled, mounted
from tests.support.graphs import EMPTY, saved, slow
from tests.support.up import Up, eventually, finished, up

MIB = 1024**2
FULL_S = 4.0
MOST_JOBS = 20
"""The maximum of accepted jobs, for each of which a loaded machine takes seconds."""


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with mounted(96) as folder:
        yield folder


def submit(client: httpx.Client) -> httpx.Response:
    """Submits a short job."""
    return client.post("/v1/jobs", json={"workflow": {"1": EMPTY, "2": slow(2, 0.1), "3": saved("2")}})


def fill_while_submitting(client: httpx.Client, disk: Path) -> list[str]:
    """Submits jobs until the disk has been full for a while, and returns the ids of the accepted jobs."""
    answers = [submit(client) for _ in range(4)]
    assert {answer.status_code for answer in answers} == {202}, answers[0].text
    ids = [answer.json()["job_id"] for answer in answers]
    with filled(disk):
        deadline = time.monotonic() + FULL_S
        while time.monotonic() < deadline and len(ids) < MOST_JOBS:
            if (answer := submit(client)).status_code == 202:
                ids.append(answer.json()["job_id"])
        time.sleep(max(0.0, deadline - time.monotonic()))
        refused = submit(client)
        assert (refused.status_code, refused.json()["type"]) == (507, "/problems/insufficient-storage")
        assert int(refused.headers["retry-after"]) > 0
        upload = client.post("/v1/uploads", json={"size_bytes": 5, "content_type": "image/png", "filename": "a.png"})
        assert upload.status_code == 507
        eventually(lambda: client.get("/ready").status_code == 503)
    return ids


def write_everywhere(running: Up) -> bool:
    """Whether the bucket accepts writes in many folders, whose metadata are spread over several databases."""
    import boto3  # slow to import
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    connection = running.connection
    client = boto3.client(
        "s3",
        endpoint_url=connection["s3_endpoint"],
        region_name=connection["region"],
        aws_access_key_id=connection["access_key"],
        aws_secret_access_key=connection["secret_key"],
        config=Config(read_timeout=10, retries={"total_max_attempts": 1}),  # a server may hang until it is restarted
    )
    try:
        for number in range(40):
            client.put_object(Bucket=connection["bucket"], Key=f"probes/everywhere-{number}/x", Body=os.urandom(16))
    except (BotoCoreError, ClientError):
        return False
    finally:
        client.close()
    return True


def test_a_full_disk_is_survived(small_disk: Path) -> None:
    """New jobs get 507 while the disk is full; afterwards accepted and new jobs run without a manual restart."""
    environment = {"COMFYUI_MODAL_MIN_FREE_BYTES": str(16 * MIB)}
    with up(small_disk / "data", environment=environment) as running, running.client() as client:
        ids = fill_while_submitting(client, small_disk)
        eventually(lambda: client.get("/ready").status_code == 200, 60)
        late = eventually(lambda: submit(client).json()["job_id"], 60)
        ended = [finished(client, job_id) for job_id in ids]
        # The engine's folders are also on this disk, so a job that runs at that time may fail in its saving node.
        assert {job["error"] for job in ended if job["status"] != "completed"} <= {"[Errno 28] No space left on device"}
        assert finished(client, late)["status"] == "completed"
        assert eventually(lambda: write_everywhere(running), 60)
