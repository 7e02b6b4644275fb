"""Processor time of a small job by process and stage: the last rows of `overhead`, without its peers."""

import asyncio

from tests.bench.figures import Table
from tests.bench.overhead.ours import ours
from tests.bench.overhead.stages import Stages, stages


def run() -> Table:
    return Table(("one small job at a time", "p50 / p95, or the mean", "aim"), asyncio.run(_measured()).rows())


async def _measured() -> Stages:
    async with ours() as system:
        return await stages(system)
