"""Fixtures shared by all tests: a bucket on a real S3 server for each process, and stores on it or in memory."""

import gc
import signal
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import KeyPage, ObjectStore
from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.clock import ManualClock
from tests.support.shared_s3 import new_bucket, shared_server

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job: containers would not stop
    signal.signal(signal.SIGINT, signal.default_int_handler)

gc.disable()  # until `pytest_collection_finish`, as collected modules and tests stay
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")

RIVALS = 8
TOGETHER = ("tests/conformance/", "tests/acceptance/pages/")
"""Tests that may start a real ComfyUI, and those that share a browser."""
SERVER = pytest.StashKey[Path]()
START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run everything at full length, as `make soak` does")


class _Files(LoadFileScheduling):  # type: ignore[misc]  # xdist ships no types
    """A file's tests run in one process and share its fixtures, and so do all tests of a folder of `TOGETHER`."""

    def _split_scope(self, nodeid: str) -> str:
        path: str = super()._split_scope(nodeid)
        return next((folder for folder in TOGETHER if path.startswith(folder)), path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    # The mark xdist_group has no effect with pytest 9.2, which no longer reads the attribute that xdist 3.8 sets.
    return _Files(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Exempt what was collected, thousands of tests, from every later garbage collection."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def is_long(request: pytest.FixtureRequest) -> bool:
    """Return whether this is `make soak`; a test marked `chaos` has a short version for `make test`."""
    return bool(request.config.getoption("--long"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of `objects` on memory, and on the S3 server if marked `real_bucket` or with --long."""
    if "objects" in metafunc.fixturenames:
        is_marked = metafunc.definition.get_closest_marker("real_bucket") is not None
        on_server = pytest.param("s3", marks=[] if is_marked else pytest.mark.soak("the same test on memory"))
        metafunc.parametrize("objects", ["memory", on_server], indirect=True)


@cache
def _source(path: str) -> str:
    return (Path(__file__).parent / path).read_text()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run tests marked `soak` only with --long, and require a reason in each mark."""
    for item in items:
        for mark in (*item.iter_markers("soak"), *item.iter_markers("real_bucket")):
            assert mark.args, f"{item.nodeid}: the mark {mark.name} needs a reason"
            path, _, name = mark.args[0].partition("::")
            assert not name or f"def {name}(" in _source(path), f"{item.nodeid}: {mark.args[0]} does not exist"
    if config.getoption("--long"):
        return
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak")])
    items[:] = [item for item in items if not item.get_closest_marker("soak")]
    # The longest file without waits: begun late, it alone would be left at the end.
    items.sort(key=lambda item: not item.nodeid.startswith("tests/simulation/"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a process of the run the S3 server, which the controller starts with the first process."""
    config: pytest.Config = node.config
    if SERVER not in config.stash:
        servers = ExitStack()
        config.stash[SERVER] = servers.enter_context(shared_server())
        config.add_cleanup(servers.close)
    node.workerinput["s3_server"] = str(config.stash[SERVER])


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest) -> Iterator[S3Config]:
    """Return this process's bucket on the run's S3 server; each test uses its own prefix."""
    run: dict[str, Any] = getattr(request.config, "workerinput", {})
    with nullcontext(Path(run["s3_server"])) if run else shared_server() as server:
        yield new_bucket(f"tests-{run.get('workerid', 'alone')}", server)


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


class DatedS3(S3ObjectStore):
    """The real bucket, whose answers have the date of the test's clock."""

    def __init__(self, config: S3Config, clock: ManualClock) -> None:
        super().__init__(config)
        self._clock = clock

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        return replace(await super().list(prefix, after=after, limit=limit), answered_at=self._clock.now())


@pytest.fixture
async def dated_s3(s3_config: S3Config, clock: ManualClock) -> AsyncIterator[DatedS3]:
    objects = DatedS3(s3_config, clock)
    yield objects
    await objects.close()


@pytest.fixture
def objects(request: pytest.FixtureRequest, clock: ManualClock) -> ObjectStore:
    """Return an implementation of the port; `pytest_generate_tests` chooses which."""
    if request.param == "memory":
        return MemoryObjectStore(clock)
    store: DatedS3 = request.getfixturevalue("dated_s3")
    return store


@pytest.fixture
async def rivals(objects: ObjectStore, request: pytest.FixtureRequest) -> AsyncIterator[Sequence[ObjectStore]]:
    """Yield the separate stores of eight processes on one bucket, because one store serializes the writes of a key."""
    if isinstance(objects, MemoryObjectStore):
        yield [objects] * RIVALS
        return
    stores = [S3ObjectStore(request.getfixturevalue("s3_config")) for _ in range(RIVALS)]
    yield stores
    for store in stores:
        await store.close()
