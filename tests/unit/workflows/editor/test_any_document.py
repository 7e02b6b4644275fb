"""Generated documents of the editor: each is converted to a graph that the parser takes, or refused."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compare_editor.cases import OBJECT_INFO, Draft, definition, seal
from workflows.catalogue import Catalogue
from workflows.editor import convert
from workflows.errors import WorkflowError
from workflows.graph import parse_graph

CATALOGUE = Catalogue(OBJECT_INFO)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
_NUMBERS = st.integers(0, 5)
_PARTS = [f"00000000-0000-4000-8000-{number:012}" for number in range(2)]
_KINDS = st.sampled_from([*OBJECT_INFO, "Reroute", "PrimitiveNode", "Note", "SetNode", "GetNode", *_PARTS])
_SLOT = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["model", "steps", "image", "seed", "images.image0", ""]),
        "type": st.sampled_from(["IMAGE", "*"]),
    },
    optional={"link": _NUMBERS | JSON, "widget": st.just({"name": "steps"}), "linkIds": st.lists(_NUMBERS, max_size=2)},
)
_NODE = st.fixed_dictionaries(
    {"id": _NUMBERS, "type": _KINDS, "mode": st.sampled_from([0, 0, 2, 4])},
    optional={
        "inputs": st.lists(_SLOT, max_size=3),
        "outputs": st.lists(_SLOT, max_size=2),
        "widgets_values": st.lists(JSON, max_size=8) | JSON,
        "properties": st.fixed_dictionaries({}, optional={"proxyWidgets": st.lists(st.lists(st.text(max_size=2)))}),
        "title": JSON,
    },
)
_LINK = st.tuples(
    _NUMBERS, st.sampled_from([0, 1, 2, 3, -10]), _NUMBERS, st.sampled_from([0, 1, 2, -20]), _NUMBERS, st.just("*")
)
_NAMES = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
_FORMS = {0.4: _LINK.map(list), 1: _LINK.map(lambda link: dict(zip(_NAMES, link, strict=True)))}


def graphs(**members: Any) -> Any:
    """Return a strategy for graphs of both versions, mostly with links of the version's form."""
    return st.sampled_from(sorted(_FORMS)).flatmap(
        lambda version: st.fixed_dictionaries(
            {
                "version": st.just(version),
                "nodes": st.lists(_NODE, max_size=5, unique_by=lambda node: node["id"]),
                "links": st.lists(_FORMS[version], max_size=6) | st.lists(JSON, max_size=2),
                **members.get("always", {}),
            },
            optional=members.get("optional", {}),
        )
    )


_DEFINITIONS = st.tuples(
    *(
        graphs(
            always={"id": st.just(part), "inputs": st.lists(_SLOT, max_size=2), "outputs": st.lists(_SLOT, max_size=2)}
        )
        for part in _PARTS
    )
).map(lambda parts: {"subgraphs": [{**parts[0], "definitions": {"subgraphs": [parts[1]]}}]})
DOCUMENTS = graphs(optional={"definitions": _DEFINITIONS, "extra": JSON})


def check_converted_or_refused(document: Any) -> bool:
    """Convert, and report whether there is a graph, which the parser must take."""
    try:
        workflow = convert(document, CATALOGUE, draw=lambda _: 0).workflow
    except WorkflowError:
        return False
    if workflow:
        parse_graph(json.loads(json.dumps(workflow)))
    return bool(workflow)


@settings(max_examples=60)
@given(DOCUMENTS | JSON)
def test_any_document_is_converted_or_refused(document: Any) -> None:
    """Random documents raise nothing but the package's errors, and give graphs that the parser takes."""
    check_converted_or_refused(document)


_CLASSES = ["DemoSource", "DemoSample", "DemoFilter", "DemoUnion", "DemoFormat", "DemoGrow", "DemoNested", "SaveImage"]
_SOURCES = {"Reroute": ["*"], "PrimitiveNode": ["INT"], "SetNode": ["*"], "GetNode": ["*"]}
_PLACEABLE = [*_CLASSES, "DemoCurve", "DemoBox", *_SOURCES, *_PARTS]


@st.composite
def wired(draw: Any, inside: dict[str, Any] | None = None) -> Draft:
    """Draw a graph whose links are consistent: nodes of every kind and mode, reroutes, primitives and instances."""
    draft = Draft(inside)
    count = draw(st.integers(1, 7))
    for number in range(1, count + 1):
        kind = draw(st.sampled_from(_PLACEABLE))
        values = tuple(
            draw(st.lists(st.sampled_from(["euler", "png", "grow", 1, 0.5, None, [1], {"a": 1}]), max_size=4))
        )
        outputs = {"outputs": _SOURCES.get(kind, ["IMAGE"])} if kind in _SOURCES or kind in _PARTS else {}
        draft.node(number, kind, values, mode=draw(st.sampled_from([0, 0, 0, 2, 4])), **outputs)
    for _ in range(draw(st.integers(0, 9))):
        origin, target = (draw(st.integers(1, count)) for _ in range(2))
        slots = len(draft.nodes[origin]["outputs"])
        name = draw(st.sampled_from(["model", "image", "images", "steps", "", "images.image0", "model.images.image0"]))
        if slots and name not in [slot["name"] for slot in draft.nodes[target]["inputs"]]:
            draft.link(origin, draw(st.integers(0, slots - 1)), target, name, "IMAGE", widget=name == "steps")
    if inside is not None:
        for slot in range(len(inside["inputs"])):
            draft.link(-10, slot, draw(st.integers(1, count)), f"from outside {slot}", "IMAGE")
        sources = [number for number, node in draft.nodes.items() if node["outputs"]]
        for output in inside["outputs"] if sources else ():
            draft.link(draw(st.sampled_from(sources)), 0, -20, output["name"], "IMAGE")
    return draft


@st.composite
def wired_documents(draw: Any) -> Any:
    """Draw a document of consistent graphs; its subgraphs hold each other, and themselves."""
    parts = []
    for level in range(2):
        found, _ = definition(level, {"image": "IMAGE"}, {"IMAGE": "IMAGE"})
        parts.append(seal(found, draw(wired(found))))
    return draw(wired()).document(*parts)


@settings(max_examples=60)
@given(wired_documents())
def test_any_consistent_document_is_converted_or_refused(document: Any) -> None:
    """Circles of links, subgraphs inside themselves, muted and bypassed nodes give a graph or a refusal."""
    check_converted_or_refused(document)
