"""The duration of /health while the API checks the worst bodies that it accepts, eight at a time.

/health is requested by a separate process, so that the load's own work does not count.
"""

import asyncio
import http.client
import json
import select
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.bench.figures import Table, percentile
from tests.bench.processes import running
from tests.support.up import up

AT_ONCE = 8
SECONDS = 6.0
POLL_EVERY_S = 0.01
SIZE = 3_000_000
"""The size of large bodies in bytes, below `MAX_SMALL_JSON`, the limit for a body without long texts."""
AIM_MS = 50

SOURCE = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 1}}
OUTPUT = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}}


def bodies() -> dict[str, bytes]:
    """Return the bodies of an attacker by their kind."""
    text = b'{"node":"2","field":"filename_prefix","value":"' + b"\\u3042" * 9000 + b'"}'
    return {
        "3 MB of empty strings, no commas": b"[" + b'""' * (SIZE // 2),
        "3 MB of empty strings": b'{"workflow":[' + b'"",' * (SIZE // 3) + b'""]}',
        "55 escaped texts of 54 kB": b'{"workflow":%s,"inputs":[%s]}' % (_json(_graph({})), b",".join([text] * 55)),
        "700 integers of 4,300 digits": b'{"workflow":[' + b"9" * 4300 + b",9" * 700 + b"]}",
        "1,800 nodes of 50 floats": b'{"workflow":%s}' % _json(_graph(_inverting(1800, 50))),
        "2,000 near-miss class names": b'{"workflow":%s}' % _json(_unknown(1999, "SaveImag{}")),
        "16,000 nodes": b'{"workflow":%s}' % _json(_unknown(16_000, "A")),
        "45,000 empty inputs": b'{"workflow":%s,"inputs":[%s]}'
        % (_json(_unknown(1, "A")), b",".join([b"{}"] * 45_000)),
    }


def run() -> Table:
    with tempfile.TemporaryDirectory() as folder, up(Path(folder)) as started:
        url, key = started.connection["api_url"], started.connection["api_key"]
        rows = [_row("nothing", [], _polled(url, key, None))]
        for name, body in bodies().items():
            rows.append(_row(name, [f"{len(body) / 1e6:.1f} MB"], _polled(url, key, body)))
    return Table(("body", "size", "answers", "/health p50", "p99", "worst", "aim for p99"), rows)


def _row(name: str, size: list[str], polled: dict[str, Any]) -> list[str]:
    times = (f"{polled[part]:.0f} ms" for part in ("p50", "p99", "worst"))
    return [name, *(size or ["–"]), polled["answers"] or "–", *times, f"≤ {AIM_MS} ms"]


def _polled(url: str, key: str, body: bytes | None) -> dict[str, Any]:
    with running("hostile_bodies", url) as part:
        answers = asyncio.run(_load(url, key, body))
    counted = ", ".join(f"{number} × {status}" for status, number in sorted(answers.items()))
    return part.reported | {"answers": counted}


async def _load(url: str, key: str, body: bytes | None) -> Counter[int]:
    answers: Counter[int] = Counter()
    if body is None:
        await asyncio.sleep(SECONDS)
        return answers
    until = time.monotonic() + SECONDS

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < until:
            async with session.post("/v1/jobs", data=body) as answer:
                await answer.read()
                answers[answer.status] += 1

    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    async with aiohttp.ClientSession(url, headers=headers) as session:
        await asyncio.gather(*(client(session) for _ in range(AT_ONCE)))
    return answers


def _graph(more: dict[str, Any]) -> dict[str, Any]:
    return {"1": SOURCE, "2": OUTPUT, **more}


def _inverting(nodes: int, inputs: int) -> dict[str, Any]:
    floats = {f"x{number}": 1.5 for number in range(inputs)}
    return {str(n): {"class_type": "ImageInvert", "inputs": {**floats, "image": ["1", 0]}} for n in range(3, nodes + 3)}


def _unknown(nodes: int, name: str) -> dict[str, Any]:
    return {str(n): {"class_type": name.format(n % 10), "inputs": {}} for n in range(nodes)}


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


def poll(url: str) -> None:
    """Poll in a separate process until its standard input ends."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=60)
    times_ms: list[float] = []
    _report({})
    while not select.select([sys.stdin], [], [], POLL_EVERY_S)[0]:
        started = time.perf_counter()
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        times_ms.append((time.perf_counter() - started) * 1000)
    _report({"p50": percentile(times_ms, 50), "p99": percentile(times_ms, 99), "worst": max(times_ms)})


def _report(line: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    poll(sys.argv[1])
