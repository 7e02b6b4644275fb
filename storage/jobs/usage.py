"""The GPU time of a job, and its price on Modal.

Time counts from a claim to the end of its attempt, the loading of models included, since the GPU is in use. A
container's start and its idle window are not charged to a job.
"""

from storage.jobs.models import GpuTime, Runtime


def with_time(usage: tuple[GpuTime, ...], runtime: Runtime | None, seconds: float) -> tuple[GpuTime, ...]:
    """Add the seconds of an attempt to `usage`, which has one entry per GPU, the last one used at the end."""
    gpu = None if runtime is None else runtime.gpu
    price = None if runtime is None or gpu is None else runtime.usd_per_s
    seconds = max(0.0, seconds)
    added = GpuTime(gpu=gpu, seconds=round(seconds, 3), usd=None if price is None else round(seconds * price, 8))
    before = next((one for one in usage if one.gpu == gpu), None)
    others = tuple(one for one in usage if one.gpu != gpu)
    return (*others, added if before is None else _sum(before, added))


def total_seconds(usage: tuple[GpuTime, ...]) -> float:
    return round(sum(one.seconds for one in usage), 3)


def total_usd(usage: tuple[GpuTime, ...]) -> float | None:
    """Return the total price; None if the price of a GPU is unknown. Time without a GPU is free."""
    # A partial sum would look like the total, so it is not returned.
    priced = [one.usd for one in usage if one.gpu is not None]
    known = [usd for usd in priced if usd is not None]
    return round(sum(known), 6) if known and len(known) == len(priced) else None


def _sum(one: GpuTime, other: GpuTime) -> GpuTime:
    usd = None if one.usd is None or other.usd is None else round(one.usd + other.usd, 8)
    return GpuTime(gpu=one.gpu, seconds=round(one.seconds + other.seconds, 3), usd=usd)
