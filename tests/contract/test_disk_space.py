"""With an almost full disk of a local bucket, new work is refused and accepted work can still be read."""

import base64
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from infra.settings import Settings
from storage.bucket.disk import BucketDisk
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.errors import DiskAlmostFull, StorageUnavailable
from tests.support.api_server import BLUE, PNG, Api, running_api, submit
from tests.support.browsers import logged_in
from tests.support.disks import fill, mounted

pytestmark = pytest.mark.anyio

MORE_THAN_ANY_DISK = 2**53 - 1
URL_JOB = {"workflow": BLUE, "media": [{"name": "a.png", "url": "https://files.example/a.png"}]}
BATCH = {"workflow": BLUE, "input_sets": [[]]}
UPLOAD = {"size_bytes": 5, "content_type": "image/png", "filename": "a.png"}


class ReadableStore(MemoryObjectStore):
    """A bucket that refuses writes once it is `full`."""

    full = False

    async def put(self, *args: object, **fields: object) -> str:
        if self.full:
            raise StorageUnavailable("no space left")
        return await super().put(*args, **fields)  # type: ignore[arg-type]


@pytest.fixture
async def full(objects: MemoryObjectStore, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Api]:
    settings = Settings(bucket="tests", bucket_dir=tmp_path, min_free_bytes=MORE_THAN_ANY_DISK)
    async with running_api(objects, clock, settings=settings) as api:
        yield api


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/jobs", {"workflow": BLUE}), ("/v1/jobs", URL_JOB), ("/v1/batches", BATCH), ("/v1/uploads", UPLOAD)],
)
async def test_new_work_is_refused(full: Api, path: str, body: dict[str, object]) -> None:
    """A job, a fetch, a batch and an upload get 507 with Retry-After, and nothing is stored."""
    answer = await full.client.post(path, json=body)
    assert (answer.status_code, answer.json()["type"]) == (507, "/problems/insufficient-storage"), answer.text
    assert "bytes must be freed" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) > 0
    assert await full.keys() == ()


async def test_a_full_disk_is_not_ready(full: Api) -> None:
    """GET /ready fails and gives the reason, while lists still work."""
    answer = await full.client.get("/ready")
    assert (answer.status_code, "almost full" in answer.json()["detail"]) == (503, True)
    assert (await full.client.get("/v1/jobs")).status_code == 200


async def test_an_accepted_request_can_be_repeated(objects: MemoryObjectStore, clock: ManualClock, full: Api) -> None:
    """A repeat of a request that was accepted before the disk filled up returns the same job."""
    headers = {"idempotency-key": "k-1"}
    async with running_api(objects, clock) as roomy:
        accepted = await roomy.client.post("/v1/jobs", json={"workflow": BLUE}, headers=headers)
    repeated = await full.client.post("/v1/jobs", json={"workflow": BLUE}, headers=headers)
    assert (repeated.status_code, repeated.json()["job_id"]) == (200, accepted.json()["job_id"])


async def test_a_bucket_that_refuses_writes_is_not_ready(clock: ManualClock) -> None:
    """GET /ready fails while the bucket refuses writes, although it answers reads."""
    objects = ReadableStore(clock)
    async with running_api(objects, clock) as api:
        objects.full = True
        assert (await api.client.get("/v1/jobs")).status_code == 200
        assert (await api.client.get("/ready")).status_code == 503


async def test_remote_buckets_are_not_checked(objects: MemoryObjectStore, clock: ManualClock) -> None:
    """Without a local bucket folder, the free space of this machine is not checked."""
    async with running_api(objects, clock, settings=Settings(bucket="b", min_free_bytes=MORE_THAN_ANY_DISK)) as api:
        await submit(api)


def test_the_minimum_free_space_is_optional(tmp_path: Path) -> None:
    """Work is accepted without a minimum on a disk with free space, and refused with a minimum above its size."""
    assert BucketDisk(tmp_path, 0).missing_bytes() == 0
    assert not BucketDisk(tmp_path, 0).is_exhausted()
    with pytest.raises(DiskAlmostFull):
        BucketDisk(tmp_path, MORE_THAN_ANY_DISK).check()


@pytest.fixture
def temporary_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small disk for the temporary files of this process."""
    with mounted(16) as folder:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.mark.parametrize("size", [100_000, 3_000_000], ids=["small", "large"])
async def test_a_file_that_finds_no_space_is_refused(
    objects: MemoryObjectStore, clock: ManualClock, temporary_disk: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    """With a full disk of temporary files, jobs with files get 507 without a traceback, and jobs without run."""
    picture = base64.b64encode(PNG + bytes(size)).decode()
    body = {"workflow": BLUE, "media": [{"name": "a.png", "data": picture}]}
    async with running_api(objects, clock) as api:
        ballast = fill(temporary_disk)
        with caplog.at_level(logging.WARNING):
            refused = await api.client.post("/v1/jobs", json=body)
        assert (refused.status_code, refused.json()["type"]) == (507, "/problems/insufficient-storage"), refused.text
        assert "temporary files is full" in refused.json()["detail"]
        assert "Traceback" not in caplog.text
        assert (await api.client.post("/v1/jobs", json={"workflow": BLUE})).status_code == 202
        ballast.unlink()
        assert (await api.client.post("/v1/jobs", json=body)).status_code != 507


async def test_a_fetched_file_that_finds_no_space_is_refused(
    clock: ManualClock, objects: MemoryObjectStore, temporary_disk: Path
) -> None:
    """A file behind a URL that does not fit on the disk of temporary files gets 507, and /ready names that disk."""
    async with running_api(objects, clock) as api:
        fill(temporary_disk)
        refused = await api.client.post("/v1/jobs", json=URL_JOB)
        assert (refused.status_code, refused.json()["type"]) == (507, "/problems/insufficient-storage"), refused.text
        ready = await api.client.get("/ready")
        assert (ready.status_code, "temporary files" in ready.json()["detail"]) == (503, True)


async def test_a_form_that_finds_no_space_gets_a_page(
    memory_api: Api, temporary_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A page whose form needs a temporary file explains the full disk, which is logged without a traceback."""
    graph = json.dumps(BLUE | {"3": {"class_type": "Note", "inputs": {"text": "x" * 100_000}}})
    async with logged_in(memory_api) as browser:
        token = await browser.token()
        fill(temporary_disk)
        refused = await browser.post("/ui/try", {"csrf": token, "graph": graph})
    assert (refused.status_code, "temporary files is full" in refused.text) == (507, True), refused.text
    assert f"({temporary_disk}) is full" in caplog.text
    assert "Traceback" not in caplog.text
