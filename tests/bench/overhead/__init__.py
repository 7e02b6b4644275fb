"""Overhead a job: raw ComfyUI, this API and its peers run the same trivial graph on the same kind of engine.

One after another, each with a fresh engine of its own, so that nothing else runs while one is measured.
"""

import asyncio
from collections.abc import Mapping, Sequence

from tests.bench.figures import Table
from tests.bench.overhead.engine import chosen
from tests.bench.overhead.load import CLIENTS, Job, Series, all_measured
from tests.bench.overhead.ours import ends_of, ours
from tests.bench.overhead.raw import raw
from tests.bench.overhead.stages import stages

Row = Sequence[str]
Measured = Mapping[int, Series]

COLUMNS = ("POST → …: p50 / p95, throughput", *(f"clients: {clients}" for clients in CLIENTS), "aim (p50)")


async def measure() -> list[Row]:
    rows: list[Row] = []
    async with raw() as ends:
        rows += await _rows("raw ComfyUI", ends)
    async with ours() as system:
        staged = await stages(system)
        rows += await _rows("this API", ends_of(system))
    return [*rows, *((name, value, "", "", aim) for name, value, aim in staged.rows())]


async def _rows(system: str, ends: Mapping[str, Job]) -> list[Row]:
    return [_row(f"{system}: {end}", await all_measured(job)) for end, job in ends.items()]


def _row(name: str, measured: Measured) -> Row:
    return (name, *(measured[clients].cell() for clients in CLIENTS), "")


def run() -> Table:
    return Table(COLUMNS, asyncio.run(measure()), [f"Engine: {chosen().name}."])
