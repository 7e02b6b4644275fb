"""Clients that hold connections to a running `up`, which stays responsive and small."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.flood import flooded
from tests.support.up import Up, finished, up

pytestmark = pytest.mark.chaos

CONNECTIONS, CONNECTIONS_IN_SHORT = 4_000, 2_500
"""More connections than may wait; `make bench` opens 10,000."""
MAX_GROWTH = 100 * 1024 * 1024
BLUE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}},
}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Up]:
    with up(tmp_path / "data") as running:
        yield running


def test_silent_connections_block_no_client(running: Up, is_long: bool) -> None:
    """During a flood of silent connections health checks pass and memory is bounded, and afterwards a job runs."""
    connection = running.connection
    measured = flooded(
        connection["api_url"], connection["processes"]["api"], CONNECTIONS if is_long else CONNECTIONS_IN_SHORT
    )
    assert measured.rss_most - measured.rss_before < MAX_GROWTH, measured
    with running.client() as client:
        job_id = client.post("/v1/jobs", json={"workflow": BLUE}).json()["job_id"]
        assert finished(client, job_id)["status"] == "completed"
    assert connection["processes"]["api"] == running.connection["processes"]["api"]
