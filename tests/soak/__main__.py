"""`make soak REQUESTS=…` fails if the API's memory at the end exceeds 1.5 times that after 1,000 requests."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import psutil
from aiohttp import web

from tests.soak.mixture import Mixture
from tests.soak.run import Course, soak
from tests.support.up import up

MIB = 1024 * 1024
FIRST = 1_000
MOST_GROWTH = 1.5
STEPS = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1, help="the same one sends the same requests")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, up(Path(folder), "--workers", "1") as running:
        connection = running.connection
        api = psutil.Process(connection["processes"]["api"])
        idle = api.memory_info().rss
        course = asyncio.run(_soaked(connection, api, options.requests, options.seed))
        is_same = running.connection["processes"]["api"] == api.pid and api.is_running()
    _print(idle, course, time.monotonic() - started)
    growth = course.memory[options.requests] / course.memory[FIRST]
    sys.stdout.write(f"at the end {growth:.2f} x the level after {FIRST} requests; at most {MOST_GROWTH} is allowed\n")
    return 0 if is_same and growth <= MOST_GROWTH else 1


async def _soaked(connection: dict[str, str], api: psutil.Process, requests: int, seed: int) -> Course:
    async def take(_: web.Request) -> web.Response:
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        receiver = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        marks = frozenset({FIRST, *range(0, requests, max(1, requests // STEPS))})
        mixture = Mixture(seed, connection["api_key"], receiver)
        return await soak(
            connection["api_url"], mixture, requests=requests, marks=marks, memory=lambda: int(api.memory_info().rss)
        )
    finally:
        await runner.cleanup()


def _print(idle: int, course: Course, seconds: float) -> None:
    sys.stdout.write(f"idle {idle / MIB:.0f} MiB\n")
    for number, size in sorted(course.memory.items()):
        sys.stdout.write(f"after {number:6} requests {size / MIB:.0f} MiB\n")
    statuses = "  ".join(f"{status or 'broken'}: {count}" for status, count in sorted(course.statuses.items()))
    sys.stdout.write(f"{statuses}\n{seconds:.0f} s\n")


if __name__ == "__main__":
    sys.exit(main())
