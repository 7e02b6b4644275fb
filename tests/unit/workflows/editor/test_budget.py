"""Small files that ask for much: each kind of work that a file multiplies is bounded, and none is repeated."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compare_editor.cases import OBJECT_INFO, Draft, definition, seal
from workflows.catalogue import Catalogue
from workflows.editor import convert, proposed_inputs
from workflows.editor.budget import MOST_BYTES, MOST_STEPS, Budget, size_of
from workflows.editor.document import parse_document
from workflows.editor.text import DEEPEST_CHOICES, Draw, dynamic_prompt, fill_placeholders, script_text
from workflows.errors import BadEditorFile, NotConvertible, WorkflowError
from workflows.graph import LONGEST_NAME
from workflows.origins import origins

PROMPT = {
    "input": {"required": {"text": ["STRING", {"multiline": True, "dynamicPrompts": True}]}},
    "python_module": "nodes",
}
CATALOGUE = Catalogue({**OBJECT_INFO, "Prompt": PROMPT})
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
Json = dict[str, Any]


def refused(document: Json, budget: Budget | None = None) -> str:
    """Return the reason why a file is not converted."""
    with pytest.raises(NotConvertible) as caught:
        convert(document, CATALOGUE, budget=budget)
    return caught.value.reason


def instances(count: int, **part: Any) -> Json:
    """Return a file with so many instances of one subgraph."""
    nodes = [{"id": number, "type": "part"} for number in range(count)]
    subgraph = {"id": "part", "version": 0.4, "nodes": [], "links": [], **part}
    return {"version": 0.4, "nodes": nodes, "links": [], "definitions": {"subgraphs": [subgraph]}}


def primitive(count: int, text: str) -> Json:
    """Return a file in which one PrimitiveNode writes a text into so many nodes."""
    widget = {"name": "filename_prefix", "widget": {"name": "filename_prefix"}}
    nodes = [{"id": n, "type": "SaveImage", "inputs": [{**widget, "link": n}]} for n in range(count)]
    links = [[n, "p", 0, n, 0, "STRING"] for n in range(count)]
    return {
        "version": 0.4,
        "nodes": [{"id": "p", "type": "PrimitiveNode", "widgets_values": [text]}, *nodes],
        "links": links,
    }


def fed_inputs(count: int, links: int) -> Json:
    """Return instances of a subgraph whose input has so many links that lead nowhere."""
    return instances(count, inputs=[{"name": "a", "linkIds": [f"none{n}" for n in range(links)]}])


def long_values(count: int, members: int) -> Json:
    """Return instances of a subgraph with a list that becomes a text."""
    return instances(count, nodes=[{"id": 1, "type": "Prompt", "widgets_values": [[0] * members]}])


def long_prompts(count: int, length: int) -> Json:
    """Return instances of a subgraph with a text of which nothing is left."""
    return instances(count, nodes=[{"id": 1, "type": "Prompt", "widgets_values": [f"/*{'x' * length}*/"]}])


def bypasses(count: int, types: int) -> Json:
    """Return nodes that are linked to a bypassed one with long types that are no type of its inputs."""
    given = [{"name": f"i{n}", "type": ",".join("B" * 9 for _ in range(types))} for n in range(20)]
    bypassed = {"id": "b", "type": "Unknown", "mode": 4, "inputs": given, "outputs": []}
    nodes = [{"id": n, "type": "SaveImage", "inputs": [{"name": "images", "link": n}]} for n in range(count)]
    return {"version": 0.4, "nodes": [bypassed, *nodes], "links": [[n, "b", 0, n, 0, "IMAGE"] for n in range(count)]}


def long_primitives(count: int, length: int) -> Json:
    """Return instances of a subgraph with a text that is searched for placeholders."""
    replaces = {"Run widget replace on values": True}
    return instances(
        count,
        nodes=[{"id": 1, "type": "PrimitiveNode", "properties": replaces, "widgets_values": ["x" * length]}],
    )


def placeholders(count: int, length: int) -> Json:
    """Return a name of a file that consists of placeholders for a long text."""
    named = {"id": 1, "type": "SaveImage", "widgets_values": ["%b.filename_prefix%" * count]}
    return {"nodes": [named, {"id": 2, "type": "SaveImage", "title": "b", "widgets_values": ["y" * length]}]}


@pytest.mark.parametrize(
    "document",
    [
        instances(60, inputs=[{}] * 400),
        fed_inputs(60, 400),
        instances(60, nodes=[{"id": 1, "type": "SaveImage", "inputs": [{"name": str(n)} for n in range(400)]}]),
        instances(50, nodes=[{"id": n, "type": "DemoSample"} for n in range(30)]),
        long_values(30, 10_000),
        long_prompts(30, 20_000),
        long_primitives(30, 20_000),
        bypasses(60, 100),
        placeholders(100, 10_000),
    ],
    ids=["inputs", "links of inputs", "slots", "nodes", "lists", "prompts", "primitives", "types", "placeholders"],
)
def test_work_that_a_small_file_multiplies_is_refused(document: Json) -> None:
    """Whatever is done again for each instance, link or placeholder takes from one budget of steps."""
    assert len(json.dumps(document)) < 100_000
    assert refused(document, Budget(20_000)) == "too many steps"


def test_a_file_cannot_ask_for_more_than_the_limit() -> None:
    """Unless the caller says otherwise, a conversion has the limit that the API shows."""
    assert refused(instances(600, inputs=[{}] * 400)) == "too many steps"


def titles(count: int, length: int) -> Json:
    return instances(count, nodes=[{"id": 1, "type": "DemoSource", "title": "x" * length}])


@pytest.mark.parametrize(
    "document",
    [primitive(50, "x" * 100_000), titles(50, 100_000)],
    ids=["a primitive's text", "titles"],
)
def test_texts_that_a_file_multiplies_are_refused(document: Json) -> None:
    """The graph's names, values and titles are counted while it is made."""
    assert refused(document) == "too many bytes"


def test_notes_count_as_well() -> None:
    """A title that the notes of many instances repeat is counted for each."""
    muted = {"id": 1, "type": "DemoSource", "title": "x" * 100_000, "mode": 2}
    assert refused(instances(50, nodes=[muted])) == "too many bytes"


def test_the_limits_are_exact() -> None:
    """What a conversion takes is accepted, and one step or byte less is refused by the limit's name."""
    document = primitive(3, "text")
    used = Budget()
    workflow = convert(document, CATALOGUE, budget=used).workflow
    assert used.size == sum(size_of({name: node}) for name, node in workflow.items()) + size_of(
        ["p", "PrimitiveNode", "replaced by what it passes on"]
    )
    steps, size = used.steps, used.size
    assert convert(document, CATALOGUE, budget=Budget(steps, size)).workflow == workflow
    with pytest.raises(NotConvertible, match=f"more than {steps - 1} steps .`max_conversion_steps`"):
        convert(document, CATALOGUE, budget=Budget(steps - 1, size))
    with pytest.raises(NotConvertible, match=f"more than {size - 1} bytes .`max_conversion_bytes`"):
        convert(document, CATALOGUE, budget=Budget(steps, size - 1))
    assert steps < MOST_STEPS // 1_000
    assert size < MOST_BYTES // 1_000


_TEXTS = st.text(st.sampled_from("ab{|}%/*.é\\ "), max_size=40).map(lambda text: text * 20)
_INSIDE = st.fixed_dictionaries(
    {"type": st.sampled_from(["Prompt", "SaveImage", "DemoSource", "PrimitiveNode", "part", "Reroute"])},
    optional={"widgets_values": st.lists(_TEXTS, max_size=2), "title": _TEXTS, "mode": st.sampled_from([0, 2, 4])},
)


@given(st.lists(_INSIDE, max_size=4), st.lists(_INSIDE, max_size=4), st.integers(0, 30), st.integers(0, 30))
def test_no_conversion_exceeds_its_budget(root: list[Json], inside: list[Json], count: int, inputs: int) -> None:
    """Files with repeated subgraphs and long texts are converted within their budget, or refused."""
    document = instances(count, nodes=[{"id": n, **one} for n, one in enumerate(inside)], inputs=[{}] * inputs)
    document["nodes"] += [{"id": 100 + n, **one} for n, one in enumerate(root)]
    budget = Budget(2_000, 20_000)
    try:
        made = convert(document, CATALOGUE, budget=budget)
    except WorkflowError:
        return
    written = json.dumps([made.workflow, [[note.title, note.message] for note in made.notes]], ensure_ascii=False)
    # JSON has at most four more characters for each value, where the budget has two, and two for a backslash.
    assert len(written) <= 2 * budget.size + 10 <= 2 * 20_000 + 10
    assert budget.steps <= 2_000


def test_long_ids_are_refused() -> None:
    """A node's id has at most 256 characters, with the ids of the instances around it too."""
    with pytest.raises(BadEditorFile, match="more than 256 characters"):
        parse_document({"nodes": [{"id": "x" * (LONGEST_NAME + 1), "type": "DemoInt"}]})
    document = instances(1, nodes=[{"id": "y" * 100, "type": "DemoInt", "widgets_values": [1]}])
    document["nodes"][0]["id"] = "x" * 155
    assert list(convert(document, CATALOGUE).workflow) == [f"{'x' * 155}:{'y' * 100}"]
    document["nodes"][0]["id"] = "x" * 156
    assert refused(document) == "id too long"


class Counted(dict[str, Any]):
    """Properties of a node that count how often the name for search and replace is read."""

    reads = 0

    def get(self, name: str, default: Any = None) -> Any:
        Counted.reads += name == "Node name for S&R"
        return super().get(name, default)


def test_placeholders_find_nodes_without_a_search_of_all() -> None:
    """Each node's name is read once, however many placeholders a text has."""
    Counted.reads = 0
    nodes: list[Json] = [{"id": n, "type": "Note", "properties": Counted()} for n in range(50)]
    document = {"nodes": [{"id": "s", "type": "SaveImage", "widgets_values": ["%b.c%" * 1_000]}, *nodes]}
    assert convert(document, CATALOGUE).workflow["s"]["inputs"]["filename_prefix"] == "%b.c%" * 1_000
    assert Counted.reads <= 100


class Name(str):
    """A name of a SetNode that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_get_nodes_find_set_nodes_without_a_search_of_all() -> None:
    """A GetNode's name is looked up, not compared with that of each SetNode."""
    count = 100
    nodes: list[Json] = [{"id": "s", "type": "DemoSource"}]
    links: list[Any] = []
    for n in range(count):
        nodes.append({"id": f"set{n}", "type": "SetNode", "widgets_values": [Name(n)], "inputs": [{"link": f"s{n}"}]})
        nodes.append({"id": f"get{n}", "type": "GetNode", "widgets_values": [Name(n)]})
        nodes.append({"id": n, "type": "SaveImage", "inputs": [{"name": "images", "type": "IMAGE", "link": n}]})
        links += [[f"s{n}", "s", 1, f"set{n}", 0, "IMAGE"], [n, f"get{n}", 0, n, 0, "IMAGE"]]
    workflow = convert({"version": 0.4, "nodes": nodes, "links": links}, CATALOGUE).workflow
    assert [workflow[str(n)]["inputs"]["images"] for n in range(count)] == [["s", 1]] * count
    assert Name.compared <= 10 * count


def drawn_before(text: str, draw: Draw, depth: int = 0) -> str:
    """What the frontend does, written as it is there: each choice is read again at each level."""
    if depth > DEEPEST_CHOICES:
        return text
    parts, place = [], 0
    while place < len(text):
        if text[place] == "\\" and place + 1 < len(text):
            parts.append(text[place : place + 2])
            place += 2
        elif text[place] == "{":
            options, place = options_before(text, place + 1)
            parts.append(drawn_before(options[draw(len(options))], draw, depth + 1))
        else:
            parts.append(text[place])
            place += 1
    return "".join(parts)


def options_before(text: str, place: int) -> tuple[list[str], int]:
    options, start, depth = [], place, 0
    while place < len(text):
        character = text[place]
        if character == "\\" and place + 1 < len(text):
            place += 2
            continue
        if character == "}" and depth == 0:
            break
        if character == "|" and depth == 0:
            options.append(text[start:place])
            start = place + 1
        depth += (character == "{") - (character == "}")
        place += 1
    return [*options, text[start:place]], place + 1


class LastOption:
    """Draws the last option, and keeps how many options each choice had."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, options: int) -> int:
        self.asked.append(options)
        return options - 1


@given(st.text(st.sampled_from("{{|}\\/*\n\u2028a"), max_size=60) | st.text(st.sampled_from("{{{{{}a"), min_size=60))
def test_dynamic_prompts_are_drawn_as_the_frontend_does(text: str) -> None:
    """One pass gives the same text, with the same draws, as the frontend's search at each level."""
    plain = re.sub(r"/\*.*?\*/|//[^\n\r\u2028\u2029]*", "", text, flags=re.DOTALL)
    theirs, ours = LastOption(), LastOption()
    expected = re.sub(r"\\([{}|])", r"\1", drawn_before(plain, theirs))
    assert dynamic_prompt(text, ours) == expected
    assert ours.asked == theirs.asked


@given(st.text(st.sampled_from("%%.ab"), max_size=40))
def test_placeholders_are_found_as_the_frontend_does(text: str) -> None:
    """One pass fills in the same placeholders as the frontend's expression."""
    values = {("a", "b"): "x/y", ("b", "a"): 5}

    def filled(match: re.Match[str]) -> str:
        inside = match[1].split(".")
        known = values.get((inside[0], inside[1])) if len(inside) == 2 else None
        return match[0] if known is None else str(known).replace("/", "_")

    assert fill_placeholders(text, NOW, lambda a, b: values[a, b]) == re.sub(r"%([^%]+)%", filled, text)


def test_comments_without_an_end_take_linear_time() -> None:
    """A text of comments that do not end, which a backtracking search would read for hours, stays as it is."""
    text = "/* " * 300_000
    assert dynamic_prompt(text, lambda _: 0) == text


def test_deep_choices_are_read_once() -> None:
    """A long text in fifty levels of choices takes the steps of reading it once."""
    budget, text = Budget(), "a" * 400_000
    assert dynamic_prompt("{" * 50 + text, lambda _: 0, budget) == text
    assert budget.steps < 30_000


def test_a_deep_list_becomes_text() -> None:
    """Lists inside each other are read without recursion."""
    deep: Any = "a"
    for _ in range(5_000):
        deep = [deep]
    assert script_text([deep, [], [None]]) == "a,,"


@pytest.mark.parametrize("size", [10**400, 1e308])
def test_a_view_of_an_absurd_size_is_refused(size: Any) -> None:
    """A width whose ratio to the height no number can hold is refused, not an error."""
    document = Draft().node(1, "Save3DAdvanced", ("p", "", size, 1e-300)).document()
    assert refused(document) == "3D view that cannot be calculated"


def test_slots_below_zero_lead_nowhere() -> None:
    """A link from a slot of a negative number is no error, through no kind of node."""
    found, inside = definition(1, {"IMAGE": "IMAGE"}, {"IMAGE": "IMAGE"})
    part = seal(found, inside.node(5, "DemoSource").link(5, 1, -20, "IMAGE", "IMAGE"))
    for kind, mode in (("Reroute", 0), ("DemoSource", 4), (part["id"], 0), ("SetNode", 0)):
        draft = Draft().node(1, kind, mode=mode, outputs=["IMAGE"]).node(2, "SaveImage", ("p",))
        document = draft.link(1, 0, 2, "images", "IMAGE").document(part)
        document["links"][0][2] = -9
        assert "images" not in convert(document, CATALOGUE).workflow["2"]["inputs"]
    document["definitions"]["subgraphs"][0]["nodes"][0]["inputs"] = [{"name": "steps", "link": 77}]
    inner_link = {"id": 77, "origin_id": -10, "origin_slot": -9, "target_id": 5, "target_slot": 0, "type": "INT"}
    document["definitions"]["subgraphs"][0]["links"].append(inner_link)
    document["nodes"].append({"id": 9, "type": part["id"], "properties": {"proxyWidgets": [["5", "steps"]]}})
    document["nodes"][-1]["widgets_values"] = [3]
    assert "9:5" in convert(document, CATALOGUE).workflow


def test_an_input_of_app_mode_is_proposed_once() -> None:
    """A file that names one input many times does not repeat its value in the answer."""
    document = Draft().node(1, "SaveImage", ("x",)).document()
    document["extra"] = {"linearData": {"inputs": [[1, "filename_prefix"]] * 50}}
    assert len(proposed_inputs(document, convert(document, CATALOGUE).workflow)) == 1


def test_origins_take_from_a_budget_too() -> None:
    """The search for the widgets behind the values of a graph is bounded as the conversion is."""
    with pytest.raises(NotConvertible, match="max_conversion_steps"):
        origins(instances(600, inputs=[{}] * 400), CATALOGUE)


def test_a_title_is_shortened_for_each_input_of_app_mode() -> None:
    """A node of many inputs does not repeat a long title in the answer for each of them."""
    document = Draft().node(1, "SaveImage", ("x",), title="t" * 100_000).document()
    document["extra"] = {"linearData": {"inputs": [[1, "filename_prefix"]]}}
    (found,) = proposed_inputs(document, convert(document, CATALOGUE).workflow)
    assert found.title == "t" * 200
