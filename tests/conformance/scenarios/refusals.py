"""Every way in which POST /prompt refuses a prompt, and similar prompts that are accepted."""

import uuid
from typing import Any

from tests.conformance.graphs import Graph, basic, node, save
from tests.conformance.scenarios import Book
from tests.conformance.traffic import Traffic

BOOK = Book()


@BOOK.add(http_only=True)
async def s24_cycle(traffic: Traffic) -> None:
    graph = {
        "2": node("ImageInvert", image=["3", 0]),
        "3": node("ImageInvert", image=["2", 0]),
        "4": save("3", "rec/cycle"),
    }
    await traffic.post("/prompt", {"prompt": graph, "client_id": str(uuid.uuid4())})


@BOOK.add(http_only=True)
async def s30_validation(traffic: Traffic) -> None:
    client_id = str(uuid.uuid4())
    for cases in (_classes(), _links(), _values(), _whole()):
        for note, graph in cases.items():
            await traffic.post("/prompt", {"prompt": graph, "client_id": client_id}, note)
    await _bodies(traffic, client_id)
    for note, graph, extra in _targets() + _ids():
        await traffic.post("/prompt", {"prompt": graph, "client_id": client_id, **extra}, note)


def _with(node_id: str, inputs: dict[str, Any] | None = None, **fields: Any) -> Graph:
    """Return the basic graph with inputs or fields of one node changed; None removes a field."""
    graph = basic("rec/valid")
    graph[node_id]["inputs"] |= inputs or {}
    for name, value in fields.items():
        graph[node_id][name] = value
        if value is None:
            del graph[node_id][name]
    return graph


def _without(node_id: str, *names: str) -> Graph:
    graph = basic("rec/valid")
    for name in names:
        del graph[node_id]["inputs"][name]
    return graph


def _classes() -> dict[str, Graph]:
    return {
        "unknown class_type": _with("1", class_type="NoSuchNode"),
        "unknown class_type, node has _meta.title": _with("1", class_type="NoSuchNode", _meta={"title": "My node"}),
        "node without class_type": _with("1", class_type=None),
        "missing required input": _without("2", "images"),
        "missing required inputs upstream (two of them)": _without("1", "width", "height"),
    }


def _links() -> dict[str, Graph]:
    text = {"3": node("PrimitiveString", value="a")}
    return {
        "link to a node that does not exist": _with("2", {"images": ["99", 0]}),
        "link to a slot that does not exist": _with("2", {"images": ["1", 5]}),
        "link of wrong length": _with("2", {"images": ["1"]}),
        "link type mismatch (STRING into IMAGE)": {**_with("2", {"images": ["3", 0]}), **text},
        "literal where a link is needed": _with("2", {"images": "abc"}),
    }


def _values() -> dict[str, Graph]:
    magic = {"upscale_method": "magic", "width": 16, "height": 16, "crop": "disabled"}
    image = {"1": node("EmptyImage", width=8, height=8, batch_size=1, color=1)}
    return {
        "value bigger than max": _with("1", {"width": 99999}),
        "value smaller than min": _with("1", {"width": 0}),
        "value of wrong type (string to INT)": _with("1", {"width": "abc"}),
        "numeric string to INT: accepted and converted": _with("1", {"width": "32"}),
        "float to INT: accepted and truncated": _with("1", {"width": 32.9}),
        "null to INT": _with("1", {"width": None}),
        "unknown extra input: ignored": _with("1", {"zzz": 1}),
        "combo value not in list": {
            **image,
            "2": node("ImageScale", image=["1", 0], **magic),
            "3": node("PreviewImage", images=["2", 0]),
        },
        "LoadImage of a file that does not exist": {
            "1": node("LoadImage", image="does_not_exist.png"),
            "2": node("PreviewImage", images=["1", 0]),
        },
    }


def _whole() -> dict[str, Any]:
    return {"no output node": {"1": basic()["1"]}, "empty prompt object": {}}


async def _bodies(traffic: Traffic, client_id: str) -> None:
    await traffic.post("/prompt", {"client_id": client_id}, "no prompt key")
    odd: dict[str, Any] = {
        "prompt null": None,
        "prompt is a list": [],
        "node is a string": {"1": "x"},
        "node without inputs": {"1": {"class_type": "SaveImage"}},
        "UI-format (litegraph) workflow instead of API format": {"nodes": [], "links": [], "version": 0.4},
    }
    for note, prompt in odd.items():
        await traffic.post("/prompt", {"prompt": prompt, "client_id": client_id}, note)
    json_type = {"Content-Type": "application/json"}
    await traffic.call("POST", "/prompt", "body is not JSON", data="{not json", headers=json_type)
    await traffic.call("POST", "/prompt", "JSON body is a list", data="[]", headers=json_type)
    partly = {**basic("rec/partial_ok"), "3": node("SaveImage", filename_prefix="rec/bad")}
    note = "one good output, one bad: 200 with node_errors filled; only the good one runs"
    await traffic.post("/prompt", {"prompt": partly, "client_id": client_id}, note)


def _targets() -> list[tuple[str, Graph, dict[str, Any]]]:
    two = {**basic("rec/pa"), "3": node("PreviewImage", images=["1", 0])}
    cases: dict[str, Any] = {
        "unknown id": ["77"],
        "id of a non-output node": ["1"],
        "empty list": [],
        "null": None,
    }
    only = ("partial_execution_targets: only node 3", two, {"partial_execution_targets": ["3"]})
    return [
        only,
        *(
            (f"partial_execution_targets: {note}", basic(), {"partial_execution_targets": value})
            for note, value in cases.items()
        ),
    ]


def _ids() -> list[tuple[str, Graph, dict[str, Any]]]:
    cases: dict[str, dict[str, Any]] = {
        "prompt_id client-supplied, canonical uuid": {"prompt_id": str(uuid.uuid4())},
        "prompt_id client-supplied, not a uuid": {"prompt_id": "job-42/ä"},
        "prompt_id upper-case uuid": {"prompt_id": str(uuid.uuid4()).upper()},
        "prompt_id null": {"prompt_id": None},
        "prompt_id integer": {"prompt_id": 42},
        "prompt_id empty string": {"prompt_id": ""},
        "number given": {"number": -5},
        "number not numeric": {"number": "abc"},
        "front true": {"front": True},
        "client_id not a string": {"client_id": 123},
        "extra_data null": {"extra_data": None},
    }
    return [(note, basic(), extra) for note, extra in cases.items()]
