"""The overhead per job: raw ComfyUI, this API and its peers run the same trivial graph on the same kind of engine.

They run one after another, each with a fresh engine, so that nothing else runs during a measurement.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from tests.bench.figures import Table
from tests.bench.overhead import comfy_api_proxy, comfyui_api
from tests.bench.overhead.engine import chosen
from tests.bench.overhead.load import CLIENTS, Job, Series, all_measured
from tests.bench.overhead.ours import ends_of, ours
from tests.bench.overhead.raw import raw
from tests.bench.overhead.stages import stages

Row = Sequence[str]

COLUMNS = ("POST → …: p50 / p95, throughput", *(f"clients: {clients}" for clients in CLIENTS), "aim (p50)")


@dataclass(frozen=True, slots=True)
class Peer:
    """A system to measure; `version` is None if it is not installed, and `missing` then says how to install it."""

    name: str
    version: str | None
    missing: str
    running: Callable[[], AbstractAsyncContextManager[dict[str, Job]]]


def peers() -> list[Peer]:
    return [
        Peer(
            "comfy-api-proxy",
            comfy_api_proxy.version(),
            "`make bench` installs it",
            comfy_api_proxy.comfy_api_proxy,
        ),
        Peer(
            "comfyui-api (Salad)",
            comfyui_api.version(),
            "COMFYUI_API_DIR names its built checkout",
            comfyui_api.comfyui_api,
        ),
    ]


async def measure(rivals: Sequence[Peer]) -> list[Row]:
    rows: list[Row] = []
    async with raw() as ends:
        rows += await _rows("raw ComfyUI", ends)
    async with ours() as system:
        staged = await stages(system)
        rows += await _rows("this API", ends_of(system))
    for peer in rivals:
        if peer.version is None:
            rows.append((peer.name, "not measured", "", "", ""))
            continue
        async with peer.running() as ends:
            rows += await _rows(peer.name, ends)
    return [*rows, *((name, value, "", "", aim) for name, value, aim in staged.rows())]


async def _rows(system: str, ends: Mapping[str, Job]) -> list[Row]:
    return [_row(f"{system}: {end}", await all_measured(job)) for end, job in ends.items()]


def _row(name: str, measured: Mapping[int, Series]) -> Row:
    return (name, *(measured[clients].cell() for clients in CLIENTS), "")


def run() -> Table:
    rivals = peers()
    notes = [f"Engine: {chosen().name}."]
    notes += [
        f"{peer.name} was not measured: {peer.missing}." if peer.version is None else f"{peer.name} {peer.version}."
        for peer in rivals
    ]
    return Table(COLUMNS, asyncio.run(measure(rivals)), notes)
