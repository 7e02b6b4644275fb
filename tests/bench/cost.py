"""The cost of a million jobs at list prices: the bucket's requests, storage and traffic, and the GPU's time.

Requests are counted by `tests.support.phases`, with progress and log at their maximum rates. Prices are those of
November 2026, without free tiers and taxes:

- Amazon S3 Standard, us-east-1, from https://aws.amazon.com/s3/pricing: PUT, COPY, POST and LIST 0.005 USD a thousand,
  GET 0.0004 USD a thousand, DELETE free, 0.023 USD a GB and month, 0.09 USD a GB to the internet: the first tiers.
- Cloudflare R2, Standard, from https://developers.cloudflare.com/r2/pricing: class A 4.50 USD a million, class B
  0.36 USD a million, deletion free, 0.015 USD a GB and month, traffic free.
- GPUs: `infra.gpus`.

A DELETE of several keys, which is a POST on the wire, counts as a deletion.
"""

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from infra.gpus import MODAL_USD_PER_S
from infra.settings import Settings
from storage.bucket.s3 import PART_BYTES
from storage.jobs.record import DAY_S, DEFAULT_RETAIN_S
from tests.bench.figures import Table
from tests.support.counted_bucket import Cost
from tests.support.phases import Phase, measured_phases
from workers.joblog import FIRST_INTERVAL_S

MILLION = 1_000_000
GB = 1_000_000_000
DAYS_A_MONTH = 365 / 12
MINUTES_A_MONTH = DAYS_A_MONTH * 24 * 60
ONCE = (Phase.SUBMIT, Phase.RUN, Phase.WEBHOOK, Phase.LOOK, Phase.REMOVAL)
DEFAULTS = Settings(bucket="bench")


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in USD: a million requests, a stored GB per month, a GB to the internet. Class A are PUT and LIST,
    class B are GET."""

    name: str
    class_a: float
    class_b: float
    stored: float
    egress: float


S3 = Prices("S3 Standard", class_a=5.00, class_b=0.40, stored=0.023, egress=0.09)
R2 = Prices("Cloudflare R2", class_a=4.50, class_b=0.36, stored=0.015, egress=0)
STORES = (S3, R2)


@dataclass(frozen=True, slots=True)
class Job:
    """An assumed job: `gpu_s` seconds on this GPU, one output that is downloaded once, and a webhook for its end."""

    name: str
    gpu: str
    gpu_s: int
    output_bytes: int

    @property
    def gpu_usd(self) -> float:
        return MILLION * self.gpu_s * MODAL_USD_PER_S[self.gpu]


JOBS = (
    Job("a picture", "L40S", gpu_s=5, output_bytes=2 * MILLION),
    Job("a video", "H100", gpu_s=120, output_bytes=20 * MILLION),
)


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of one job."""

    class_a: int
    class_b: int

    @classmethod
    def of(cls, job: Job, phases: Mapping[Phase, Cost]) -> "Requests":
        """Count a job's requests with a download of the output and the additional requests of a multipart upload."""
        times = dict.fromkeys(ONCE, 1) | {Phase.PROGRESS: _progress_writes(job), Phase.LOG: _log_writes(job)}
        found = [cls.counted(phases[phase], count) for phase, count in times.items()]
        return cls(sum(one.class_a for one in found) + _more_parts(job), sum(one.class_b for one in found) + 1)

    @classmethod
    def counted(cls, cost: Cost, times: int) -> "Requests":
        asked = cost.requests
        return cls(times * (asked["PUT"] + asked["LIST"]), times * (asked["GET"] + asked["HEAD"]))

    def usd(self, prices: Prices, times: float) -> float:
        return times / MILLION * (self.class_a * prices.class_a + self.class_b * prices.class_b)


def _progress_writes(job: Job) -> int:
    return math.floor(job.gpu_s / DEFAULTS.progress_interval_s)


def _log_writes(job: Job) -> int:
    """Return the log writes while the job runs; the last one belongs to its end."""
    passed, interval_s, writes = 0.0, FIRST_INTERVAL_S, 0
    while (passed := passed + interval_s) < job.gpu_s:
        writes, interval_s = writes + 1, min(2 * interval_s, DEFAULTS.log_interval_s)
    return writes


def _more_parts(job: Job) -> int:
    """Return the requests of a multipart upload, its start and completion included, beyond the one PUT."""
    return 0 if job.output_bytes < 2 * PART_BYTES else 1 + math.ceil(job.output_bytes / PART_BYTES)


def run() -> Table:
    phases = asyncio.run(measured_phases())
    rows = [row for job in JOBS for row in _rows(job, Requests.of(job, phases))]
    idle = [Requests.counted(phases[phase], 1) for phase in (Phase.SWEEP, Phase.OUTBOX)]
    month = (sum(requests.usd(prices, MINUTES_A_MONTH) for requests in idle) for prices in STORES)
    rows.append(("a month without a job on Modal: the reaper's and the deliverer's polls", *map(_usd, month)))
    return Table(("USD", *(prices.name for prices in STORES)), rows, tuple(_notes()))


def _rows(job: Job, requests: Requests) -> Iterator[tuple[str, ...]]:
    gigabytes = MILLION * job.output_bytes / GB
    months = DEFAULT_RETAIN_S / DAY_S / DAYS_A_MONTH
    asked = [requests.usd(prices, MILLION) for prices in STORES]
    stored = [gigabytes * months * prices.stored for prices in STORES]
    egress = [gigabytes * prices.egress for prices in STORES]
    sums = [sum(parts) for parts in zip(asked, stored, egress, strict=True)]
    name = f"a million jobs, {job.name}"
    yield (f"{name}: {requests.class_a} class A and {requests.class_b} class B requests a job", *map(_usd, asked))
    yield (f"{name}: outputs kept for {DEFAULT_RETAIN_S // DAY_S} days", *map(_usd, stored))
    yield (f"{name}: outputs downloaded once", *map(_usd, egress))
    yield (f"{name}: together", *map(_usd, sums))
    yield (f"{name}: next to {_usd(job.gpu_usd)} of GPU time", *(f"{usd / job.gpu_usd:.1%}" for usd in sums))


def _notes() -> Iterator[str]:
    for job in JOBS:
        assumed = f"{job.gpu_s} s on an {job.gpu} and one output of {job.output_bytes / MILLION:.0f} MB"
        written = f"{_progress_writes(job)} writes of progress and {_log_writes(job)} of the log meanwhile"
        yield f"Assumed of {job.name}: {assumed}; {written}, the most that happens by default."
    yield (
        "Each job has a webhook for its end and is read once by its client. List prices of November 2026, their "
        "first tiers, without free allowances; not in it: inputs, and traffic between a bucket and workers elsewhere."
    )


def _usd(amount: float) -> str:
    return f"{amount:,.2f}" if amount < 10 else f"{amount:,.0f}"
