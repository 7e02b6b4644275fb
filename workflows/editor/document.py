"""Parses what ComfyUI's editor saves: nodes, links, and the definitions of subgraphs.

Two versions are in use. Version 0.4 writes a link as `[id, origin, origin slot, target, target slot, type]` at the root
and as an object inside subgraphs; version 1 writes objects everywhere. Ids are numbers or texts and are texts here. A
subgraph's own inputs and outputs are slots of two nodes that exist only as ends of links (`-10` and `-20`).

Only the form is checked here. A member of another form raises `BadEditorFile` with a pointer to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workflows.errors import BadEditorFile, NotConvertible, pointer
from workflows.graph import LONGEST_NAME
from workflows.location import plain

ALWAYS, NEVER, BYPASS = 0, 2, 4
"""The modes of a node that matter here: it runs, it is muted, or it is bypassed."""
INPUT_NODE, OUTPUT_NODE = "-10", "-20"
MOST_NODES = 20_000
"""Nodes of one document, all subgraph definitions included. The largest published workflow has about 1,000."""
LARGEST_SLOT = 99_999
"""The largest number of an input or output in a link."""
LISTS_VERSION = 0.4
"""The version of files whose links are lists; in all others links are objects."""
DEEPEST_DEFINITIONS = 20
"""Levels of subgraph definitions that stand inside each other."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An input or output of a node as saved. `link` is the id of the link into an input.

    `links` are the ids of the links from the input of a subgraph definition, in the saved order.
    """

    name: str
    kind: str
    link: str | None = None
    widget: str | None = None
    links: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class EditorLink:
    """A link as saved: from an output slot to an input slot."""

    origin: str
    origin_slot: int
    target: str
    target_slot: int
    kind: str


@dataclass(frozen=True, slots=True)
class EditorNode:
    """A node as saved. `values` are its widgets' values, by position (list) or by name (mapping)."""

    id: str
    kind: str
    title: str | None
    mode: int
    inputs: Sequence[Slot]
    outputs: Sequence[Slot]
    values: Sequence[Any] | Mapping[str, Any]
    properties: Mapping[str, Any]
    pointer: str

    @property
    def label(self) -> str:
        """How messages name the node."""
        named = f" “{self.title[:80]}”" if self.title and self.title != self.kind else ""
        return f"node {self.id[:80]}{named} ({self.kind[:80]})"

    def refusal(self, placed_id: str, problem: str, *, reason: str, hint: str) -> NotConvertible:
        """Return the error that says why this node cannot be converted. `placed_id` is its id in the graph."""
        message = f"{self.label}: {problem}"
        return NotConvertible(message, reason=reason, pointer=self.pointer, node_id=placed_id, hint=hint)


@dataclass(frozen=True, slots=True)
class EditorGraph:
    """The nodes and links of the root or of one subgraph definition. `inputs` and `outputs` are the definition's."""

    id: str
    name: str
    nodes: Mapping[str, EditorNode]
    links: Mapping[str, EditorLink]
    inputs: Sequence[Slot] = ()
    outputs: Sequence[Slot] = ()
    loose: Sequence[tuple[str, EditorLink]] = ()
    """Ids and links to inputs that do not name them, as in hand-made files. The editor goes by their slot numbers."""

    def link_of(self, slot: Slot) -> EditorLink | None:
        return self.links.get(slot.link) if slot.link is not None else None


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document: the root graph, and the subgraph definitions by id."""

    root: EditorGraph
    definitions: Mapping[str, EditorGraph] = field(default_factory=dict)

    def graphs(self) -> Iterator[EditorGraph]:
        yield self.root
        yield from self.definitions.values()


def parse_document(raw: object) -> Document:
    """Parse a document that `json.loads` returned. Raises `BadEditorFile`."""
    root = _mapping(raw, "", "an editor's file is a JSON object")
    definitions = {graph.id: graph for graph in _definitions(root, "", 0)}
    document = Document(_graph(root, ""), definitions)
    if sum(len(graph.nodes) for graph in document.graphs()) > MOST_NODES:
        raise BadEditorFile(f"the workflow has more than {MOST_NODES} nodes", hint="split it into several workflows")
    return document


def _definitions(owner: Mapping[str, Any], at: str, depth: int) -> Iterator[EditorGraph]:
    if depth > DEEPEST_DEFINITIONS:
        raise BadEditorFile("subgraph definitions are nested too deeply", pointer=at)
    listed = owner.get("definitions")
    subgraphs = listed.get("subgraphs") if isinstance(listed, Mapping) else None
    for number, raw in enumerate(subgraphs if isinstance(subgraphs, list) else ()):
        where = f"{at}{pointer('definitions', 'subgraphs', number)}"
        definition = _mapping(raw, where, "a subgraph definition is an object")
        yield _graph(definition, where)
        yield from _definitions(definition, where, depth + 1)


def _graph(raw: Mapping[str, Any], at: str) -> EditorGraph:
    listed = raw.get("nodes")
    if not isinstance(listed, list):
        raise BadEditorFile("an editor's file has a list of `nodes`", pointer=f"{at}/nodes")
    nodes: dict[str, EditorNode] = {}
    for number, one in enumerate(listed):
        node = _node(one, f"{at}{pointer('nodes', number)}")
        if node.id in nodes:
            raise BadEditorFile(f"two nodes have the id {node.id[:80]}", pointer=node.pointer, node_id=node.id)
        nodes[node.id] = node
    links = _links(raw, at)
    nodes = {node.id: _with_own_links(node, links) for node in nodes.values()}
    named = {(node.id, slot.link) for node in nodes.values() for slot in node.inputs}
    loose = [(name, link) for name, link in links.items() if link.target in nodes and (link.target, name) not in named]
    inputs, outputs = (_slots(raw.get(name), f"{at}/{name}") for name in ("inputs", "outputs"))
    return EditorGraph(_text(raw.get("id")), _text(raw.get("name")), nodes, links, inputs, outputs, loose)


def _links(raw: Mapping[str, Any], at: str) -> dict[str, EditorLink]:
    listed = raw.get("links")
    # The editor goes by the version alone, and drops links of the other form.
    form: type = list if raw.get("version") == LISTS_VERSION else Mapping
    found = {}
    for number, one in enumerate(listed if isinstance(listed, list) else ()):
        if one is not None:  # the editor of 2023 left a null where a link was removed
            where = f"{at}{pointer('links', number)}"
            name, link = _link(one, where)
            if not isinstance(one, form):
                wanted = "lists" if form is list else "objects"
                message = f"links are {wanted} in a file of version {plain(raw.get('version'))[:20]}"
                raise BadEditorFile(message, pointer=where, hint='set "version" to 0.4 for lists, to 1 for objects')
            found[name] = link
    return found


def _with_own_links(node: EditorNode, links: Mapping[str, EditorLink]) -> EditorNode:
    """Return the node without names of links that end elsewhere or do not exist, as the editor ignores them."""

    def is_own(slot: Slot) -> bool:
        return slot.link is None or (slot.link in links and links[slot.link].target == node.id)

    if all(is_own(slot) for slot in node.inputs):
        return node
    return replace(node, inputs=[slot if is_own(slot) else replace(slot, link=None) for slot in node.inputs])


def _node(raw: object, at: str) -> EditorNode:
    node = _mapping(raw, at, "a node is an object")
    kind, mode, title = node.get("type"), node.get("mode", ALWAYS), node.get("title")
    if not isinstance(kind, str) or not isinstance(node.get("id"), int | str):
        raise BadEditorFile("a node has an `id` and a `type`", pointer=at)
    node_id = str(node["id"])
    if len(node_id) > LONGEST_NAME:
        raise BadEditorFile(f"the id of a node has more than {LONGEST_NAME} characters", pointer=at)
    values = node.get("widgets_values")
    properties = node.get("properties")
    return EditorNode(
        id=node_id,
        kind=kind,
        title=title if isinstance(title, str) else None,
        mode=mode if isinstance(mode, int) else ALWAYS,
        inputs=_slots(node.get("inputs"), f"{at}/inputs"),
        outputs=_slots(node.get("outputs"), f"{at}/outputs"),
        values=values if isinstance(values, list | Mapping) else [],
        properties=properties if isinstance(properties, Mapping) else {},
        pointer=at,
    )


def _slots(raw: object, at: str) -> list[Slot]:
    found = []
    for number, one in enumerate(raw if isinstance(raw, list) else ()):
        slot = _mapping(one, f"{at}/{number}", "a slot is an object")
        widget = slot.get("widget")
        name = widget.get("name") if isinstance(widget, Mapping) else None
        link, links = slot.get("link"), slot.get("linkIds")
        found.append(
            Slot(
                name=_text(slot.get("name")),
                kind=kind_of(slot.get("type")),
                link=str(link) if isinstance(link, int | str) else None,
                widget=name if isinstance(name, str) else None,
                links=[str(one) for one in links if isinstance(one, int | str)] if isinstance(links, list) else (),
            )
        )
    return found


def _link(raw: object, at: str) -> tuple[str, EditorLink]:
    if isinstance(raw, Mapping):
        members = [raw.get(name) for name in ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")]
    elif isinstance(raw, list) and len(raw) >= 5:  # files of 2023 may lack the type
        members = [*raw, None][:6]
    else:
        raise BadEditorFile("a link is a list of six members or an object", pointer=at)
    name, origin, origin_slot, target, target_slot, kind = members
    for member in (name, origin, target):
        if not isinstance(member, int | str):
            raise BadEditorFile("a link names its id, its origin and its target", pointer=at)
    slots = [_slot_number(slot, at) for slot in (origin_slot, target_slot)]
    return str(name), EditorLink(str(origin), slots[0], str(target), slots[1], kind_of(kind))


def _slot_number(raw: object, at: str) -> int:
    if isinstance(raw, str) and raw.isdecimal() and len(raw) < 6:
        return int(raw)
    # Numbers of any length could be chosen so that a dict holds them in one place.
    if isinstance(raw, int) and abs(raw) <= LARGEST_SLOT:
        return raw
    raise BadEditorFile(f"a link's slots are whole numbers of at most {LARGEST_SLOT}", pointer=at)


def kind_of(raw: object) -> str:
    """Return a slot's type as text. A list of choices is the type of a combo; 0, -1 and null mean any type."""
    if isinstance(raw, str):
        return raw or "*"
    return "COMBO" if isinstance(raw, list) else "*"


def _text(raw: object) -> str:
    return raw if isinstance(raw, str) else "" if raw is None else str(raw)


def _mapping(raw: object, at: str, problem: str) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise BadEditorFile(problem, pointer=at)
    return raw
