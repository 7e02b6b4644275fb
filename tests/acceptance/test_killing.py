"""Every accepted job is completed once, whichever processes are killed at whatever time."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.support.killer import KINDS, Killer, processes_on
from tests.support.stubborn import Order, StubbornClient, check_each_order_made_one_job, check_is_whole, stubborn
from tests.support.up import up

pytestmark = pytest.mark.chaos

KILLS, KILLS_IN_SHORT = 60, 11
"""The number of kills and of jobs. Eleven cover each kind of process, see `Killer.kill_one`."""
WORKERS, WORKERS_IN_SHORT = 4, 2
EVERY_S = 1.0
HIT_STEPS = 60
"""The duration, in tenths of a second, of the job whose worker is killed on purpose."""
SETTLE_S = 60.0
QUICK = {
    "COMFYUI_MODAL_LEASE_S": "5",
    "COMFYUI_MODAL_REAP_INTERVAL_S": "1",
    "COMFYUI_MODAL_MAX_ATTEMPTS": "50",  # kills alone must not fail a job
}


def test_kills_neither_lose_nor_duplicate_jobs(tmp_path: Path, is_long: bool) -> None:
    """With a kill each second, for a minute in the long version, all jobs complete once and no process is left."""
    kills_wanted, workers = (KILLS, WORKERS) if is_long else (KILLS_IN_SHORT, WORKERS_IN_SHORT)
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)  # noqa: S311  a seed must reproduce it
    orders = [Order.drawn(number, chance) for number in range(kills_wanted)]
    data = tmp_path / "data"
    kills: Counter[str] = Counter()
    try:
        with up(data, "--workers", str(workers), environment=QUICK) as running, stubborn(running) as client:
            with ThreadPoolExecutor(1) as pool:
                submitting = pool.submit(_submit_all, client, orders)
                killer = Killer(running, chance, kills)
                _kill_all(killer, kills_wanted)
                hit = _kill_at_work(client, killer, Order(kills_wanted, HIT_STEPS, 1))
            _check(client, submitting.result() | hit)
        assert all(kills[kind] for kind in KINDS)
        _, alive = psutil.wait_procs(processes_on(data), timeout=5)
        assert not alive
    except Exception as error:
        error.add_note(f"seed {seed}, kills {dict(kills)}; the logs are in {data / 'logs'}")
        raise


def _submit_all(client: StubbornClient, orders: list[Order]) -> dict[Order, str]:
    """Submits the orders, spread over the time of the kills; late orders follow immediately."""
    accepted = {}
    started = time.monotonic()
    for order in orders:
        due = started + order.number * EVERY_S
        time.sleep(max(0.0, due - time.monotonic()))
        accepted[order] = client.submit(order)
    return accepted


def _kill_all(killer: Killer, number: int) -> None:
    for _ in range(number):
        time.sleep(EVERY_S)
        killer.kill_one()


def _kill_at_work(client: StubbornClient, killer: Killer, order: Order) -> dict[Order, str]:
    """Kills the worker of a running job, which the random kills above may miss."""
    job_id = client.submit(order)
    while client.job(job_id)["status"] == "queued":
        time.sleep(0.1)
    killer.kill_workers()
    return {order: job_id}


def _check(client: StubbornClient, accepted: dict[Order, str]) -> None:
    settled_by = time.monotonic() + SETTLE_S
    jobs = {order: client.ended(job_id, settled_by) for order, job_id in accepted.items()}
    for order, job in jobs.items():
        check_is_whole(order, job)
    check_each_order_made_one_job(client, accepted)
    assert max(job["attempt"] for job in jobs.values()) > 1, "the kills hit no running job"
