"""What one step of a conversion costs: files that repeat something long take steps for all that is done for them.

The cost is a count of executed lines of Python. The texts of the files compare in Python, so that a search that one
call of C does for many of them counts as well.
"""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.compare_editor.cases import OBJECT_INFO
from workflows.catalogue import Catalogue
from workflows.editor import convert
from workflows.editor.budget import Budget
from workflows.errors import BadEditorFile, WorkflowError
from workflows.origins import origins

LINES = 100
"""Lines for each step and each value of the file."""
REPEATED, LONG = 6, 300
"""Instances of a subgraph, and members of what is long in it."""
Json = dict[str, Any]

_OPTIONS = [{"key": f"option {n}", "inputs": {}} for n in range(30)]
_MANY_CHOICES = [[f"choice {n}" for n in range(LONG)], {}]
CLASSES: Json = {
    **OBJECT_INFO,
    "Options": {"input": {"required": {"format": ["COMFY_DYNAMICCOMBO_V3", {"options": _OPTIONS}]}}},
    "Choices": {"input": {"required": {f"c{n}": _MANY_CHOICES for n in range(5)}}},
    "Prompt": {"input": {"required": {"text": ["STRING", {"multiline": True, "dynamicPrompts": True}]}}},
    **{
        name: {"input": {"required": {}}, "python_module": "custom_nodes.x"}
        for name in ("CustomCombo", "Power Lora Loader (rgthree)", "ShowText|pysssss", "Image Comparer (rgthree)")
    },
}
CATALOGUE = Catalogue(CLASSES)
KINDS = [
    *("Choices", "CustomCombo", "DemoFormat", "DemoGrow", "DemoNested", "Image Comparer (rgthree)", "Options"),
    *("Power Lora Loader (rgthree)", "PrimitiveNode", "Prompt", "Save3DAdvanced", "SaveImage", "ShowText|pysssss"),
]


class Text(str):
    """A text of a file whose comparisons count as lines."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)


class Number(int):
    """A number of a file that counts how often it is compared."""

    compared = 0
    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        Number.compared += 1
        return int.__eq__(self, other)


def counted(value: Any) -> tuple[Any, int]:
    """Return a JSON value whose comparisons count, and the number of values in it."""
    if isinstance(value, list):
        members = [counted(one) for one in value]
        return [one for one, _ in members], 1 + sum(count for _, count in members)
    if isinstance(value, dict):
        parts = {name: counted(one) for name, one in value.items()}
        return {Text(name): one for name, (one, _) in parts.items()}, 1 + sum(count for _, count in parts.values())
    if isinstance(value, str):
        return Text(value), 1
    return value, 1


def check_lines(work: Callable[[], object], most: Callable[[], int]) -> None:
    """Count executed lines of Python, and fail at the first beyond `most`, so that a fault takes no minutes."""
    lines = allowed = 0

    def count(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines, allowed
        lines += event == "line"
        if lines > allowed and lines > (allowed := most()):
            raise AssertionError(f"too many lines at {frame.f_code.co_filename}:{frame.f_lineno}")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)


VALUES: dict[str, Any] = {
    "none": [],
    "an empty list many times": [[[] for _ in range(LONG)]] * 5,
    "a deep list": [json.loads(f"{'[' * 60}{'[],' * LONG}[]{']' * 60}")] * 3,
    "numbers": list(range(LONG)),
    "equal texts": ["x"] * LONG,
    "objects": [{"lora": "x", "selected": True}] * LONG,
    "names": {f"n{n}": [] for n in range(LONG)},
    "choices": ["{a|b}" * LONG] * 2,
    "comments": ["/**/" * LONG] * 2,
    "placeholders": ["%b.c%%d.e%" * LONG] * 2,
}


def slots(kind: str) -> list[Json]:
    """Return inputs that are parts of each input of a class, linked from outside."""
    inputs = CLASSES.get(kind, {}).get("input", {})
    names = [name for group in inputs.values() for name in group] or ["any"]
    return [{"name": f"{names[n % len(names)]}.p{n}", "type": f"T{n}", "link": n} for n in range(LONG)]


def instances(nodes: list[Json], links: list[Json] | None = None, **members: Any) -> Json:
    """Return a file with many instances of one subgraph, whose input comes from a node of the root."""
    inside = {"id": "part", "version": 1, "inputs": [{"name": "in", "type": "X"}], "nodes": nodes}
    given = {"type": "part", "inputs": [{"name": "in", "link": 0}]}
    return {
        "version": 0.4,
        "nodes": [{"id": "s", "type": "DemoSource"}, *({"id": n, **given} for n in range(REPEATED))],
        "links": [[n, "s", 1, n, 0, "X"] for n in range(REPEATED)],
        "definitions": {"subgraphs": [{**inside, "links": links or [], **members}]},
    }


def link(number: int, origin: Any, slot: int, target: Any, kind: str = "X") -> Json:
    return {
        "id": number,
        "origin_id": origin,
        "origin_slot": slot,
        "target_id": target,
        "target_slot": number,
        "type": kind,
    }


def bypassed(slot: int) -> Json:
    """Return many links through a bypassed node with many inputs, of which only the last has the links' type."""
    given = [*({"name": f"a{n}", "type": f"T{n}"} for n in range(LONG)), {"name": "z", "type": "X"}]
    fed = [{"name": f"b{n}", "type": "X", "link": n} for n in range(LONG)]
    nodes = [{"id": "b", "type": "DemoInt", "mode": 4, "inputs": given}, {"id": 1, "type": "DemoInt", "inputs": fed}]
    return instances(nodes, [link(n, "b", slot, 1) for n in range(LONG)])


def numbered(step: int) -> Json:
    """Return many SetNodes and GetNodes with numbers for names."""
    numbers = [Number(n * step) for n in range(LONG)]
    setters = [{"id": f"s{n}", "type": "SetNode", "widgets_values": [number]} for n, number in enumerate(numbers)]
    getters = [{"id": f"g{n}", "type": "GetNode", "widgets_values": [number]} for n, number in enumerate(numbers)]
    node = {"id": 1, "type": "DemoInt", "inputs": [{"name": f"b{n}", "link": n} for n in range(LONG)]}
    return instances([*setters, *getters, node], [link(n, f"g{n}", 0, 1) for n in range(LONG)])


def outputs(step: int) -> Json:
    """Return a link to each of many outputs of a subgraph."""
    inside = [{**link(n, 1, 0, -20), "target_slot": n * step} for n in range(LONG)]
    document = instances([{"id": 1, "type": "DemoInt"}], inside)
    document["nodes"].append({"id": "t", "type": "DemoInt"})
    document["nodes"][-1]["inputs"] = [{"name": f"b{n}", "link": f"t{n}"} for n in range(LONG)]
    document["links"] += [[f"t{n}", 0, n * step, "t", n, "X"] for n in range(LONG)]
    return document


ONE_HASH = 2**61 - 1
"""All multiples of it have the same hash."""


def reroutes() -> Json:
    """Return many inputs behind one chain of reroutes."""
    chain = [{"id": n, "type": "Reroute", "inputs": [{"name": "", "link": n}]} for n in range(40)]
    fed = [{"name": f"b{n}", "link": 1_000 + n} for n in range(LONG)]
    links = [link(n, n - 1 if n else -10, 0, n) for n in range(40)]
    return instances(
        [*chain, {"id": "t", "type": "DemoInt", "inputs": fed}],
        [*links, *(link(1_000 + n, 39, 0, "t") for n in range(LONG))],
    )


def promoted() -> Json:
    """Return instances that list many widgets of the nodes in them, as old files do."""
    document = instances([{"id": n, "type": "DemoInt", "widgets_values": [1]} for n in range(LONG)])
    reason = {"attemptedAtVersion": 1, "reason": "missingSourceNode", "originalEntry": ["-1", "in"], "hostValue": 1}
    for node in document["nodes"]:
        node["properties"] = {
            "proxyWidgets": [[str(n), "value"] for n in range(LONG)],
            "proxyWidgetErrorQuarantine": [reason] * LONG,
        }
        node["widgets_values"] = [1] * LONG
    return document


def nested() -> Json:
    """Return subgraphs inside each other, with many nodes in the last one and a placeholder for all of them."""
    last = [{"id": n, "type": "DemoInt", "title": f"t{n}"} for n in range(LONG)]
    named = [{"id": "n", "type": "SaveImage", "widgets_values": ["%t1.value%"]}]
    levels = [[{"id": 1, "type": f"part {depth + 1}"}] for depth in range(60)]
    graphs = [
        {"id": f"part {depth}", "version": 1, "nodes": nodes, "links": []}
        for depth, nodes in enumerate([*levels, [*last, *named]])
    ]
    return {"nodes": [{"id": 1, "type": "part 0"}], "links": [], "definitions": {"subgraphs": graphs}}


def documents() -> Iterator[tuple[str, Json]]:
    for kind in KINDS:
        for name, values in VALUES.items():
            yield f"{name} in {kind}", instances([{"id": 1, "type": kind, "widgets_values": values}])
        links = [link(n, -10, 0, 1) for n in range(LONG)]
        for mode in (0, 4):
            node = {"id": 1, "type": kind, "mode": mode, "inputs": slots(kind)}
            yield f"inputs of {kind} in mode {mode}", instances([node], links)
        yield f"loose links to {kind}", instances([{"id": 1, "type": kind}], links)
        fed = {"id": 1, "type": "PrimitiveNode", "widgets_values": ["x"], "outputs": [{}]}
        node = {"id": 2, "type": kind, "inputs": slots(kind)}
        yield f"a primitive into {kind}", instances([fed, node], [link(n, 1, 0, 2) for n in range(LONG)])
    yield "a bypassed node", bypassed(0)
    yield "an output that a bypassed node lacks", bypassed(9_999)
    yield "names that are numbers", numbered(1)
    yield "outputs", outputs(1)
    yield "reroutes", reroutes()
    yield "promoted widgets", promoted()
    yield "nested subgraphs", nested()
    feeds = [{"name": f"i{n}", "linkIds": list(range(LONG))} for n in range(5)]
    yield "links of a subgraph's inputs", instances([], inputs=feeds)


DOCUMENTS = dict(documents())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_step_costs_some_lines(name: str) -> None:
    """A conversion, and the search for the widgets behind its values, run few lines of Python for each step."""
    document, values = counted(DOCUMENTS[name])
    budget = Budget()

    def work() -> None:
        for of in (lambda: convert(document, CATALOGUE, budget=budget), lambda: origins(document, CATALOGUE)):
            try:
                of()
            except WorkflowError:
                continue

    check_lines(work, lambda: LINES * (values + budget.steps))


def test_names_of_one_hash_are_not_compared_with_each_other() -> None:
    """Numbers that are names of SetNodes are looked up, even if a dict would hold them all in one place."""
    Number.compared = 0
    workflow = convert(numbered(ONE_HASH), CATALOGUE).workflow
    assert len(workflow) == REPEATED + 1
    assert Number.compared <= LONG


def test_slots_of_one_hash_are_refused() -> None:
    """A link's slots are small numbers, which a dict holds in different places."""
    with pytest.raises(BadEditorFile, match="at most 99999"):
        convert(outputs(ONE_HASH), CATALOGUE)
    convert(outputs(1), CATALOGUE)
