"""What tests share: a real S3 server a test process, and stores on it or in memory."""

import asyncio
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings

from infra.local.s3_server import LocalS3Server
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.clock import ManualClock

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job, whose containers would never stop
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")

RIVALS = 8
START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked `chaos` at their full length")


@pytest.fixture(scope="session")
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether this is `make soak`; a test marked `chaos` has a short version for `make test`."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Config]:
    """One server a test process; each test uses a prefix of its own."""
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-tests-") as folder, asyncio.Runner() as runner:
        server = LocalS3Server(
            data_dir=Path(folder), bucket="tests", access_key="TESTACCESSKEY", secret_key="test-secret-key"
        )
        runner.run(server.start())
        try:
            yield server.config()
        finally:
            runner.run(server.stop())


@pytest.fixture
def s3_config(s3_server: S3Config) -> S3Config:
    return replace(s3_server, prefix=f"t-{uuid.uuid4().hex}")


@pytest.fixture
async def s3_objects(s3_config: S3Config) -> AsyncIterator[S3ObjectStore]:
    objects = S3ObjectStore(s3_config)
    yield objects
    await objects.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture(params=["memory", "s3"])
def objects(request: pytest.FixtureRequest, clock: ManualClock) -> ObjectStore:
    """Every version of the port."""
    if request.param == "memory":
        return MemoryObjectStore(clock)
    store: S3ObjectStore = request.getfixturevalue("s3_objects")
    return store


@pytest.fixture
async def rivals(objects: ObjectStore, request: pytest.FixtureRequest) -> AsyncIterator[Sequence[ObjectStore]]:
    """What eight processes would have: stores of their own on one bucket, since one store writes a key in turn."""
    if isinstance(objects, MemoryObjectStore):
        yield [objects] * RIVALS
        return
    stores = [S3ObjectStore(request.getfixturevalue("s3_config")) for _ in range(RIVALS)]
    yield stores
    for store in stores:
        await store.close()
