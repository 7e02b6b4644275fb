"""The time that checking a graph takes in the API's event loop, against as many classes as a full ComfyUI has."""

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from storage.pools.engine_info import EngineInfo
from tests.bench.figures import Figure, Table, figures
from workflows.catalogue import Catalogue
from workflows.graph import parse_graph

CLASSES = 900
NODES = 500
ROUNDS = 20
WORDS = "What this input does, said in a sentence or two, as the editor shows it above the field. " * 2


def run() -> Table:
    info = EngineInfo(object_info(), "0.33.0", datetime.now(UTC), files_listed=True)
    body = info.to_bytes()
    size = f"{len(str(info.object_info)) / 1e6:.1f} MB"
    catalogue = Catalogue(info.object_info)
    document = chain("euler")
    good, bad = parse_graph(document), parse_graph(chain("nothing of this name"))
    assert catalogue.check(good).faults == ()
    assert catalogue.check(bad).faults
    return figures(
        [
            Figure(
                f"object_info of {CLASSES} classes ({size}) read, once a publication",
                milliseconds(lambda: EngineInfo.from_bytes(body)),
            ),
            Figure(f"a graph of {NODES} nodes parsed", milliseconds(lambda: parse_graph(document))),
            Figure(f"a graph of {NODES} nodes judged: fits", milliseconds(lambda: catalogue.check(good)), "≤ 20 ms"),
            Figure(
                f"a graph of {NODES} nodes judged: all wrong", milliseconds(lambda: catalogue.check(bad)), "≤ 100 ms"
            ),
        ]
    )


def object_info() -> dict[str, Any]:
    """Return as many inputs per class and as long texts as the real object_info has on average."""
    about = {"default": 1, "min": 0, "max": 4096, "tooltip": WORDS}
    numbers = {f"number_{n}": ["INT", about] for n in range(4)}
    sampler = [[f"sampler_{n}" for n in range(40)] + ["euler"], {"tooltip": WORDS}]
    required = {"model": ["MODEL", {"tooltip": WORDS}], **numbers, "sampler": sampler}
    step = {"input": {"required": required}, "output": ["MODEL"], "output_node": False}
    start = {"input": {"required": {}}, "output": ["MODEL"], "output_node": False}
    return {f"Step{n}": step for n in range(CLASSES)} | {"Start": start, "End": step | {"output_node": True}}


def chain(sampler: str) -> dict[str, Any]:
    values = {f"number_{n}": n for n in range(4)} | {"sampler": sampler}
    nodes: dict[str, Any] = {"0": {"class_type": "Start", "inputs": {}}}
    for number in range(1, NODES):
        class_type = "End" if number == NODES - 1 else f"Step{number}"
        nodes[str(number)] = {"class_type": class_type, "inputs": {"model": [str(number - 1), 0], **values}}
    return nodes


def milliseconds(work: Callable[[], object]) -> str:
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return f"{statistics.median(taken) * 1000:.1f} ms"
