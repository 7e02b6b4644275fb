"""A process whose clock differs from the bucket's takes no running job from another worker, and claims none."""

import asyncio
import logging
import re
import sys
from datetime import timedelta

import pytest
from pydantic import SecretStr

import comfyui_modal
from infra.settings import Settings
from storage.bucket._s3_clients import date_of, of_answer
from storage.bucket.clock_skew import clock_fault, require_right_clock, seconds_ahead, warn_of_wrong_clock
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import KeyPage
from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.clock import Clock, ManualClock, SystemClock
from storage.errors import ClockWrong, StorageUnavailable
from storage.jobs.record import Status
from storage.pools.engine_starts import EngineStartStore, StartPolicy
from tests.simulation.virtual_time import VirtualClock, run_virtually
from tests.support.environment import clean_environment
from tests.support.faulty_proxy import faulty_proxy
from tests.support.records import CREATED
from tests.support.shop import LEASE_S, Shop

pytestmark = pytest.mark.anyio

ALLOWED_S = LEASE_S / 4
TICKET = """
from infra.on_modal.worker import TicketWorker
from workers.errors import EngineUnavailable
worker = TicketWorker("default", ticket_s=1)
worker.start()
for _ in range(2):
    try:
        worker.run_ticket()
    except EngineUnavailable as error:
        print(worker.is_broken, error)
worker.stop()
"""


@pytest.fixture
def bucket(clock: ManualClock) -> MemoryObjectStore:
    """A bucket whose clock is right."""
    return MemoryObjectStore(clock)


def elsewhere(bucket: MemoryObjectStore, clock: ManualClock, ahead_s: float) -> Shop:
    """Return a reaper on a machine whose clock is ahead of the bucket's."""
    return Shop(bucket, ManualClock(clock.now() + timedelta(seconds=ahead_s)))


@pytest.mark.parametrize("ahead_s", [ALLOWED_S + 2, 300, 800])
async def test_a_fast_reaper_sweeps_nothing(
    bucket: MemoryObjectStore, clock: ManualClock, caplog: pytest.LogCaptureFixture, ahead_s: float
) -> None:
    """A reaper whose clock is ahead takes no running job from its worker, and logs what to do about it."""
    healthy = Shop(bucket, clock)
    record = await healthy.claimed()
    await healthy.queued()
    fast = elsewhere(bucket, clock, ahead_s)
    bucket.requests.clear()
    assert not await fast.reaper.sweep()
    assert bucket.requests == {"LIST": 1}
    assert await healthy.read(record) == record
    (logged,) = [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert logged.levelname == "ERROR"
    assert "ahead of the bucket's" in logged.getMessage()
    assert "NTP" in logged.getMessage()


async def test_the_reaper_goes_on_when_its_clock_is_right_again(bucket: MemoryObjectStore, clock: ManualClock) -> None:
    """A sweep after the clock was set recovers the jobs whose workers are lost."""
    healthy = Shop(bucket, clock)
    record = await healthy.claimed()
    fast = elsewhere(bucket, clock, 300)
    healthy.pass_time(LEASE_S + 1)
    fast.clock.set(clock.now() + timedelta(seconds=300))
    assert not await fast.reaper.sweep()
    fast.clock.set(clock.now())
    assert (await fast.reaper.sweep())["job"] == 1
    assert (await healthy.read(record)).status is Status.QUEUED


@pytest.mark.parametrize("ahead_s", [ALLOWED_S, 1, -1, -300])
async def test_a_reaper_that_is_little_ahead_or_behind_sweeps(
    bucket: MemoryObjectStore, clock: ManualClock, ahead_s: float
) -> None:
    """A reaper whose clock is a little ahead, or behind, recovers lost jobs, the latter later."""
    healthy = Shop(bucket, clock)
    await healthy.claimed()
    healthy.pass_time(LEASE_S + 301)
    assert (await elsewhere(bucket, clock, ahead_s).reaper.sweep())["job"] == 1


@pytest.mark.parametrize(("ahead_s", "side"), [(300, "299 s ahead of"), (-300, "300 s behind")])
async def test_a_worker_with_a_wrong_clock_is_refused(
    bucket: MemoryObjectStore, clock: ManualClock, ahead_s: float, side: str
) -> None:
    """A worker's clock may be neither ahead nor behind; the comparison is one LIST and writes nothing."""
    theirs = ManualClock(clock.now() + timedelta(seconds=ahead_s))
    with pytest.raises(ClockWrong, match=rf"{side} the bucket's, more than 15 s.*NTP"):
        await require_right_clock(bucket, theirs, LEASE_S)
    await require_right_clock(bucket, clock, LEASE_S)
    assert bucket.requests == {"LIST": 2}


async def test_other_processes_only_warn(
    bucket: MemoryObjectStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The API and the deliverer log a warning about a wrong clock, and nothing about a right one."""
    await warn_of_wrong_clock(bucket, clock, LEASE_S)
    assert caplog.records == []
    await warn_of_wrong_clock(bucket, ManualClock(clock.now() + timedelta(minutes=5)), LEASE_S)
    assert [entry.levelname for entry in caplog.records] == ["WARNING"]


class SlowBucket(MemoryObjectStore):
    """A bucket whose clock is that of its machine, and whose LIST takes a while before and after its answer."""

    def __init__(self, clock: Clock, *, before_s: float, after_s: float) -> None:
        super().__init__(clock)
        self._before_s, self._after_s = before_s, after_s

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        await asyncio.sleep(self._before_s)
        page = await super().list(prefix, after=after, limit=limit)
        await asyncio.sleep(self._after_s)
        return page


@pytest.mark.parametrize(("before_s", "after_s"), [(40, 0), (0, 40), (40, 40)])
def test_a_slow_answer_is_no_difference(before_s: float, after_s: float) -> None:
    """The time that a request takes does not count as a difference of the clocks."""

    async def ahead_s() -> float | None:
        clock = VirtualClock(asyncio.get_running_loop())
        return await seconds_ahead(SlowBucket(clock, before_s=before_s, after_s=after_s), clock)

    assert run_virtually(ahead_s) == 0


class BrokenBucket(MemoryObjectStore):
    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        raise StorageUnavailable("scripted")


async def test_a_bucket_that_fails_stops_no_worker(clock: ManualClock) -> None:
    """A worker starts although its clock cannot be compared."""
    await require_right_clock(BrokenBucket(clock), clock, LEASE_S)


def test_a_bucket_that_hangs_delays_a_worker_little() -> None:
    """A worker waits five seconds at most for the comparison."""

    async def waited_s() -> float:
        loop = asyncio.get_running_loop()
        await require_right_clock(SlowBucket(VirtualClock(loop), before_s=3600, after_s=0), SystemClock(), LEASE_S)
        return loop.time()

    assert run_virtually(waited_s) == 5


def test_an_unknown_time_is_no_fault() -> None:
    """A response without a date says nothing about the clock."""
    dates = ("yesterday", "Mon, 23 Nov 2026 12:00:00", f"Mon, 23 Nov 2026 12:00:00 +{'9' * 20}")
    for headers in ({}, *({"date": date} for date in dates)):
        assert date_of({"ResponseMetadata": {"HTTPHeaders": headers}}) is None
    assert date_of({"ResponseMetadata": {"HTTPHeaders": {"date": "Mon, 23 Nov 2026 12:00:00 GMT"}}}) == CREATED
    assert clock_fault(None, LEASE_S) is None


def test_a_refused_signature_names_the_clock() -> None:
    """S3's refusal of a signature of another time says that the clock is wrong."""
    refusal = of_answer(403, "RequestTimeTooSkewed", "a key")
    assert isinstance(refusal, ClockWrong)
    assert "clock" in str(refusal)


async def test_the_real_bucket_names_its_time(s3_objects: S3ObjectStore) -> None:
    """The S3 server's answers have its time, which is that of this machine."""
    assert await seconds_ahead(s3_objects, SystemClock()) == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(comfyui_modal.command("infra.local.processes", "worker"), 2), ([sys.executable, "-c", TICKET], 0)],
)
async def test_a_worker_process_with_a_wrong_clock_claims_nothing(
    s3_config: S3Config, s3_objects: S3ObjectStore, arguments: list[str], code: int
) -> None:
    """A worker alone ends as misconfigured and one on Modal fails its tickets, and no failed start is counted."""
    config = s3_config
    async with faulty_proxy(config.endpoint_url or "") as proxy:
        proxy.ahead = timedelta(minutes=5)
        settings = Settings(
            bucket=config.bucket,
            s3_endpoint=proxy.url,
            s3_access_key=SecretStr(config.access_key or ""),
            s3_secret_key=SecretStr(config.secret_key or ""),
            s3_prefix=config.prefix,
        )
        process = await asyncio.create_subprocess_exec(
            *arguments,
            env=clean_environment() | settings.environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(120):
            output = (await process.communicate())[0].decode()
    assert process.returncode == code, output
    assert re.search("(299|300) s behind the bucket's", output), output
    if code == 0:
        assert output.count("True this machine's clock is") == 2, output
    state = await EngineStartStore(s3_objects, SystemClock(), StartPolicy()).state("default")
    assert (state.failures, state.last) == (0, None)
