"""What tests share: a real S3 server a test process, and stores on it or in memory."""

import asyncio
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
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
    parser.addoption("--long", action="store_true", help="run everything at full length, as `make soak` does")


@pytest.fixture(scope="session")
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether this is `make soak`; a test marked `chaos` has a short version for `make test`."""
    return bool(request.config.getoption("--long"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of `objects` run on memory; on the S3 server those marked `real_bucket` do, and with --long all."""
    if "objects" in metafunc.fixturenames:
        is_marked = metafunc.definition.get_closest_marker("real_bucket") is not None
        on_server = pytest.param("s3", marks=[] if is_marked else pytest.mark.soak("the same test on memory"))
        metafunc.parametrize("objects", ["memory", on_server], indirect=True)


@cache
def _source(path: str) -> str:
    return (Path(__file__).parent / path).read_text()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `soak` run with --long alone; each mark that chooses says why."""
    for item in items:
        for mark in (*item.iter_markers("soak"), *item.iter_markers("real_bucket")):
            assert mark.args, f"{item.nodeid}: the mark {mark.name} says why"
            path, _, name = mark.args[0].partition("::")
            assert not name or f"def {name}(" in _source(path), f"{item.nodeid}: there is no {mark.args[0]}"
    if config.getoption("--long"):
        return
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak")])
    items[:] = [item for item in items if not item.get_closest_marker("soak")]


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


@pytest.fixture
def objects(request: pytest.FixtureRequest, clock: ManualClock) -> ObjectStore:
    """A version of the port: which ones is chosen in `pytest_generate_tests`."""
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
