"""`up` on a disk that fills up: nothing new is taken in, and everything goes on once there is space, without help."""

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.graphs import EMPTY, saved, slow
from tests.support.up import Up, eventually, finished, up

MIB = 1024**2
FULL_S = 4.0
MOST_JOBS = 20
"""Accepted at most. A loaded machine takes seconds for each, and for the space to run out."""


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own. If the tests are killed it stays, so it lies where pytest does not clear up."""
    folder = Path(tempfile.mkdtemp(prefix="comfyui-modal-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        folder.rmdir()
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield folder
    finally:
        unmount = ["umount", "--lazy", str(folder)]
        subprocess.run(unmount, check=True)
        folder.rmdir()


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """The disk is full, whatever others delete meanwhile."""
    ended = threading.Event()
    thread = threading.Thread(target=_keep_full, args=(disk / "ballast", ended))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        (disk / "ballast").unlink()


def _keep_full(ballast: Path, ended: threading.Event) -> None:
    with ballast.open("wb", buffering=0) as file:
        while not ended.is_set():
            try:
                file.write(bytes(64 * 1024))
            except OSError:
                time.sleep(0.001)


def submit(client: httpx.Client) -> httpx.Response:
    """Of a short job."""
    return client.post("/v1/jobs", json={"workflow": {"1": EMPTY, "2": slow(2, 0.1), "3": saved("2")}})


def accepted_while_it_fills(client: httpx.Client, disk: Path) -> list[str]:
    """Submissions from before the disk is full until it has been for a while."""
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
    """Whether the bucket takes writes in many folders: its metadata are in several databases, chosen by the folder."""
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
    """New jobs get 507 while it is full; then accepted ones end and new ones are taken, without a restart by hand."""
    environment = {"COMFYUI_MODAL_MIN_FREE_BYTES": str(16 * MIB)}
    with up(small_disk / "data", environment=environment) as running, running.client() as client:
        ids = accepted_while_it_fills(client, small_disk)
        eventually(lambda: client.get("/ready").status_code == 200, 60)
        late = eventually(lambda: submit(client).json()["job_id"], 60)
        ended = [finished(client, job_id) for job_id in ids]
        # The engine's own folders lie on this disk, too: a job that runs just then may fail in the node that saves.
        assert {job["error"] for job in ended if job["status"] != "completed"} <= {"[Errno 28] No space left on device"}
        assert finished(client, late)["status"] == "completed"
        assert eventually(lambda: write_everywhere(running), 60)
