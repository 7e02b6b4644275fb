"""The delay of one tenant's submissions while another tenant reads the largest answers.

The submitting tenant and the poller of /health are a separate process, so that the readers' work does not count.
"""

import http.client
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.bench.figures import Table, percentile
from tests.bench.processes import running
from tests.support.up import Up, finished, up

READERS = 32
SECONDS = 6.0
PAUSE_S = 0.02
MEMBERS = 1000
COLUMNS = ("32 readers of", "answers a second", "/health p50", "p99", "worst", "another's submission p50", "worst")


def graph(batch_size: int = 1) -> dict[str, Any]:
    source = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": batch_size, "color": 1}}
    return {"1": source, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}}}


def run() -> Table:
    with tempfile.TemporaryDirectory() as folder, up(Path(folder)) as started:
        keys = {tenant: _key(started, tenant) for tenant in ("many", "another")}
        paths = _filled(started, keys["many"])
        rows = [_row(name, started, keys, path) for name, path in paths.items()]
    return Table(COLUMNS, rows)


def _key(started: Up, tenant: str) -> str:
    made = started.command("keys", "create", "--tenant", tenant, "--json")
    assert made.returncode == 0, made.stderr
    key: str = json.loads(made.stdout)["key"]
    return key


def _filled(started: Up, key: str) -> Mapping[str, str]:
    """Create a job with 999 outputs and a batch of 1,000 jobs for one tenant, and return the paths to read."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=started.connection["api_url"], headers=headers, timeout=120) as client:
        large = client.post("/v1/jobs", json={"workflow": graph(999)}).json()["job_id"]
        job = finished(client, large)
        assert len(job["outputs"]) == 999, job["error"]
        sets = [[{"node": "1", "field": "color", "value": n}] for n in range(MEMBERS)]
        again = {"idempotency-key": "one"}
        body = {"workflow": graph(), "input_sets": sets}
        while "batch_id" not in (accepted := client.post("/v1/batches", json=body, headers=again).json()):
            assert accepted["status"] == 503, accepted
        client.request("DELETE", f"/v1/batches/{accepted['batch_id']}")
    return {
        "nothing": "",
        "a job with 999 outputs": f"/v1/jobs/{large}",
        "a batch of 1,000 jobs": f"/v1/batches/{accepted['batch_id']}",
        "200 jobs": "/v1/jobs?limit=200",
        "200 failed jobs": "/v1/jobs?limit=200&status=failed",
        "a job's deliveries": f"/v1/jobs/{large}/deliveries",
        "dead letters": "/v1/dead-letters?limit=200",
        "receivers": "/v1/webhooks/endpoints",
        "workflows": "/v1/workflows",
        "the system": "/v1/system",
        "the OpenAPI document": "/openapi.json",
    }


def _row(name: str, started: Up, keys: Mapping[str, str], path: str) -> list[str]:
    url = started.connection["api_url"]
    with running("neighbours", url, keys["another"]) as part, _reading(url, keys["many"], path) as answers:
        time.sleep(SECONDS)
    reported = part.reported
    counted = ", ".join(f"{number / SECONDS:.0f} × {status}" for status, number in sorted(Counter(answers).items()))
    health = (f"{reported['health'][part]:.0f} ms" for part in ("p50", "p99", "worst"))
    submission = (f"{reported['submission'][part]:.0f} ms" for part in ("p50", "worst"))
    return [name, counted or "–", *health, *submission]


@contextmanager
def _reading(url: str, key: str, path: str) -> Iterator[list[int]]:
    """Read with several readers that repeat each request at once, and return the statuses of the answers."""
    statuses: list[int] = []
    over = threading.Event()

    def read() -> None:
        connection = _connected(url)
        while not over.is_set():
            connection.request("GET", path, headers={"authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()

    readers = [threading.Thread(target=read) for _ in range(READERS if path else 0)]
    for reader in readers:
        reader.start()
    try:
        yield statuses
    finally:
        over.set()
        for reader in readers:
            reader.join()


def _connected(url: str) -> http.client.HTTPConnection:
    where = urlsplit(url)
    return http.client.HTTPConnection(str(where.hostname), where.port, timeout=120)


def neighbour(url: str, key: str) -> None:
    """Run the process of the other tenant until its standard input ends."""
    over = threading.Event()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    body = json.dumps({"workflow": graph()})
    times: dict[str, list[float]] = {"health": [], "submission": []}
    asked = {"health": ("GET", "/health", None, {}), "submission": ("POST", "/v1/jobs", body, headers)}

    def ask(what: str) -> None:
        connection = _connected(url)
        while not over.is_set():
            began = time.perf_counter()
            connection.request(*asked[what])
            answer = connection.getresponse()
            answer.read()
            assert answer.status in (200, 202), answer.status
            times[what].append((time.perf_counter() - began) * 1000)
            time.sleep(PAUSE_S)

    pollers = [threading.Thread(target=ask, args=(what,)) for what in asked]
    _report({})
    for poller in pollers:
        poller.start()
    sys.stdin.read()
    over.set()
    for poller in pollers:
        poller.join()
    _report({what: _times(ms) for what, ms in times.items()})


def _times(ms: list[float]) -> dict[str, float]:
    spread = ms * 2  # a quantile needs two values, and a long delay may leave only one
    return {"p50": percentile(spread, 50), "p99": percentile(spread, 99), "worst": max(ms)}


def _report(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    neighbour(*sys.argv[1:])
