"""A bucket that fails at random on the wire loses nothing that was accepted."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from storage.bucket.s3 import S3Config
from tests.support.faulty_proxy import WEATHER, FaultyProxy, faulty_proxy
from tests.support.stubborn import Order, StubbornClient, check_each_order_made_one_job, check_is_whole, stubborn
from tests.support.up import up

pytestmark = pytest.mark.chaos

JOBS, JOBS_IN_SHORT = 20, 8
CANCELLED_OF = 4
"""One job of this number is cancelled."""
PROBABILITY = 0.3
SUBMITTERS = 3
FAULTS_S, FAULTS_S_IN_SHORT = 20.0, 6.0
SETTLE_S = 45.0
QUICK = {
    "COMFYUI_MODAL_LEASE_S": "5",
    "COMFYUI_MODAL_REAP_INTERVAL_S": "1",
    "COMFYUI_MODAL_MAX_ATTEMPTS": "50",  # the bucket's faults alone must not fail a job
}


@contextmanager
def proxy_before(endpoint: str) -> Iterator[FaultyProxy]:
    """A faulty proxy that runs in its own thread, because the test blocks its thread."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(faulty_proxy(endpoint)) as proxy:
        yield proxy


def test_bucket_faults_neither_lose_nor_duplicate_jobs(s3_config: S3Config, tmp_path: Path, is_long: bool) -> None:
    """Despite errors, resets, lost responses and slow or cut bodies, each accepted job ends once with its results."""
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)  # noqa: S311  a seed must reproduce it
    orders = [Order.drawn(number, chance) for number in range(JOBS if is_long else JOBS_IN_SHORT)]
    data = tmp_path / "data"
    with proxy_before(s3_config.endpoint_url or "") as proxy:
        proxy.chance = random.Random(seed)  # noqa: S311  as above
        environment = _environment(s3_config, proxy.url)
        try:
            with up(data, "--workers", "2", environment=environment) as running, stubborn(running) as client:
                proxy.probability = PROBABILITY
                accepted = _submit_all(client, orders)
                cancelled = _cancel_some(client, accepted, chance)
                time.sleep(FAULTS_S if is_long else FAULTS_S_IN_SHORT)
                proxy.probability = 0.0
                _check(client, accepted, cancelled)
            assert all(proxy.met[fault] for fault in WEATHER)
        except Exception as error:
            error.add_note(f"seed {seed}, faults {dict(proxy.met)}; the logs are in {data / 'logs'}")
            raise


def _environment(config: S3Config, endpoint: str) -> dict[str, str]:
    return QUICK | {
        "COMFYUI_MODAL_BUCKET": config.bucket,
        "COMFYUI_MODAL_S3_ENDPOINT": endpoint,
        "COMFYUI_MODAL_S3_ACCESS_KEY": config.access_key or "",
        "COMFYUI_MODAL_S3_SECRET_KEY": config.secret_key or "",
        "COMFYUI_MODAL_S3_PREFIX": config.prefix,
    }


def _submit_all(client: StubbornClient, orders: list[Order]) -> dict[Order, str]:
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        return dict(zip(orders, pool.map(client.submit, orders), strict=True))


def _cancel_some(client: StubbornClient, accepted: dict[Order, str], chance: random.Random) -> set[Order]:
    cancelled = set(chance.sample(list(accepted), len(accepted) // CANCELLED_OF))
    for order in cancelled:
        answer = client.request("DELETE", f"/v1/jobs/{accepted[order]}")
        assert answer.status_code in (200, 202), answer.text
    return cancelled


def _check(client: StubbornClient, accepted: dict[Order, str], cancelled: set[Order]) -> None:
    settled_by = time.monotonic() + SETTLE_S
    jobs = {order: client.ended(job_id, settled_by) for order, job_id in accepted.items()}
    for order, job in jobs.items():
        if order not in cancelled or job["status"] == "completed":
            check_is_whole(order, job)
        else:
            _check_was_cancelled(job)
    check_each_order_made_one_job(client, accepted)


def _check_was_cancelled(job: dict[str, Any]) -> None:
    assert (job["status"], job["error_detail"]["code"]) == ("failed", "cancelled"), job
