"""The API's process under load: requests per second and their durations, at several concurrencies."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from tests.bench.figures import Table, percentile
from tests.bench.server import bench_config, bench_server
from tests.support.api_process import api_process, bucket_variables
from tests.support.api_server import BLUE

KEY = "bench-key"
CONCURRENCIES = (1, 8, 32)
SECONDS = 4.0

Ask = Callable[[aiohttp.ClientSession], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Load:
    """`times_s` are the durations of all requests that were answered within `seconds`."""

    seconds: float
    times_s: list[float]

    def cell(self) -> str:
        p50, p95 = (1000 * percentile(self.times_s, percent) for percent in (50, 95))
        return f"{len(self.times_s) / self.seconds:.0f}/s, {p50:.1f} and {p95:.1f} ms"


@asynccontextmanager
async def api_session(api_url: str) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=120)
    headers = {"authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(api_url, connector=connector, timeout=timeout, headers=headers) as session:
        yield session


async def _loaded(session: aiohttp.ClientSession, ask: Ask, concurrency: int) -> Load:
    times: list[float] = []
    began = time.perf_counter()
    until = began + SECONDS

    async def client() -> None:
        while (asked := time.perf_counter()) < until:
            await ask(session)
            times.append(time.perf_counter() - asked)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return Load(time.perf_counter() - began, times)


async def _ask_health(session: aiohttp.ClientSession) -> None:
    async with session.get("/health") as answer:
        assert answer.status == 200
        await answer.read()


async def _submit(session: aiohttp.ClientSession) -> str:
    async with session.post("/v1/jobs", json={"workflow": BLUE}) as answer:
        assert answer.status == 202, await answer.text()
        job_id: str = (await answer.json())["job_id"]
        return job_id


async def _post_job(session: aiohttp.ClientSession) -> None:
    await _submit(session)


def _get_job(job_id: str) -> Ask:
    async def ask(session: aiohttp.ClientSession) -> None:
        async with session.get(f"/v1/jobs/{job_id}") as answer:
            assert answer.status == 200
            await answer.read()

    return ask


async def _rates(endpoint_url: str) -> list[tuple[str, ...]]:
    with api_process(api_settings(endpoint_url)) as api_url:
        async with api_session(api_url) as session:
            job_id = await _submit(session)
            asks: dict[str, Ask] = {
                "GET /health: no bucket": _ask_health,
                "GET /v1/jobs/{id}": _get_job(job_id),
                "POST /v1/jobs": _post_job,
            }
            return [
                (name, *[(await _loaded(session, ask, number)).cell() for number in CONCURRENCIES])
                for name, ask in asks.items()
            ]


def api_settings(endpoint_url: str) -> dict[str, str]:
    return bucket_variables(bench_config(endpoint_url)) | {"COMFYUI_MODAL_API_KEY": KEY}


async def _measure() -> list[tuple[str, ...]]:
    async with bench_server() as endpoint_url:
        return await _rates(endpoint_url)


def run() -> Table:
    columns = ("a second; p50 and p95", *(f"{number} at once" for number in CONCURRENCIES))
    return Table(columns, asyncio.run(_measure()), ("The client runs on the same machine, and takes its part of it.",))
