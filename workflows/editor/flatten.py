"""Resolves the links of a document: through subgraphs, reroutes, muted and bypassed nodes, to nodes that run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from workflows.catalogue import Catalogue
from workflows.declarations import UNKNOWN, NodeDeclaration
from workflows.editor.budget import CHARACTERS, Budget
from workflows.editor.costs import Costs
from workflows.editor.document import (
    BYPASS,
    INPUT_NODE,
    NEVER,
    Document,
    EditorGraph,
    EditorLink,
    EditorNode,
    Slot,
)
from workflows.editor.indexes import SET, Indexes, first_value
from workflows.editor.widgets import CONTROL, Widget, Widgets, read_widgets
from workflows.errors import NotConvertible
from workflows.graph import LONGEST_NAME
from workflows.location import plain

MOST_PLACED = 20_000
"""Nodes of all instances together."""
DEEPEST = 100
"""Subgraph instances inside each other, and steps of one link."""
SILENT = frozenset(
    {
        *("Note", "MarkdownNote", "Label (rgthree)", "Bookmark (rgthree)", "Note Plus (mtb)"),
        *("Fast Groups Muter (rgthree)", "Fast Groups Bypasser (rgthree)"),
    }
)
"""Nodes that stand for nothing in the API format: notes, labels, and switches that act while one edits."""
REROUTE, PRIMITIVE, GET = "Reroute", "PrimitiveNode", "GetNode"
_REPLACES = "Run widget replace on values"
_QUARANTINE_REASONS = (
    *("missingSourceNode", "missingSourceWidget", "missingSubgraphInput", "ambiguousSubgraphInput"),
    *("unlinkedSourceWidget", "primitiveBypassFailed"),
)
VIRTUAL = SILENT | {REROUTE, PRIMITIVE, SET, GET}


@dataclass
class Placed:
    """A node at its place: `scope` is the graph that holds it, `id` its id in the API graph."""

    scope: "Scope"
    node: EditorNode
    about: NodeDeclaration
    widgets: Widgets

    @property
    def id(self) -> str:
        return self.scope.prefix + self.node.id

    @cached_property
    def input_of_kind(self) -> dict[str, Slot]:
        """The first input of each type. Asked only after all loose links are attached, which replaces inputs."""
        return {slot.kind: slot for slot in reversed(self.widgets.slots)}


@dataclass(slots=True)
class Scope:
    """The root graph, or one instance of a subgraph. `host` is the instance's node, None for the root.

    `path` are the ids of the instances that it is in, `prefix` what they put before the ids of its nodes.
    """

    graph: EditorGraph
    path: tuple[str, ...]
    host: Placed | None = None
    nodes: dict[str, Placed] = field(default_factory=dict)
    inner: dict[str, "Scope"] = field(default_factory=dict)
    promoted: dict[tuple[str, str], Any] = field(default_factory=dict)
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    node_id: str
    slot: int


@dataclass(frozen=True, slots=True)
class Value:
    value: Any


class Flattener:
    """Places every node of the document and resolves links between the places. All work takes from `budget`."""

    def __init__(self, document: Document, catalogue: Catalogue, budget: Budget | None = None) -> None:
        self._document = document
        self._indexes = Indexes()
        self._costs = Costs()
        self.budget = budget or Budget()
        self.catalogue = catalogue
        self._placed = 0
        self.root = self._place(document.root, (), None)

    def _place(self, graph: EditorGraph, path: tuple[str, ...], host: Placed | None) -> Scope:
        if len(path) > DEEPEST:
            raise NotConvertible("subgraphs are nested too deeply", reason="nested too deeply", node_id=":".join(path))
        scope = Scope(graph, path, host, prefix=f"{host.id}:" if host else "")
        self._placed += len(graph.nodes)
        if self._placed > MOST_PLACED:
            raise NotConvertible(
                f"the subgraphs make more than {MOST_PLACED} nodes",
                reason="too many nodes",
                node_id=":".join(path),
                hint="use fewer instances of subgraphs, or export the workflow in API format",
            )
        for node in graph.nodes.values():
            if len(scope.prefix) + len(node.id) > LONGEST_NAME:
                raise NotConvertible(
                    f"{node.label}: the ids of the subgraphs around it make its id longer than {LONGEST_NAME} "
                    "characters",
                    reason="id too long",
                    pointer=node.pointer,
                    hint="use fewer subgraphs inside each other, or export the workflow in API format",
                )
            definition = self._document.definitions.get(node.kind)
            if definition is None:
                about = self.catalogue.declaration(node.kind)
                self.budget.step(self._costs.of(node, about))
                widgets = read_widgets(node, about)
                scope.nodes[node.id] = Placed(scope, node, about, widgets)
                continue
            self.budget.step(self._costs.of(node, UNKNOWN) + self._costs.of_inputs(definition))
            saved = {slot.name: slot for slot in node.inputs}
            outer = [saved.get(one.name) for one in definition.inputs]
            pairs = zip(definition.inputs, outer, strict=True)
            slots = [Slot(one.name, one.kind, given.link if given else None) for one, given in pairs]
            placed = Placed(scope, node, UNKNOWN, Widgets({}, slots))
            scope.nodes[node.id] = placed
            inner = self._place(definition, (*path, node.id), placed)
            scope.inner[node.id] = inner
            self._read_instance(placed, inner)
        self._attach_loose_links(scope)
        return scope

    def _attach_loose_links(self, scope: Scope) -> None:
        """Attach links that no input names to the inputs of their slot numbers, as the editor does."""
        for name, link in scope.graph.loose:
            target = scope.nodes[link.target]
            slots = target.widgets.slots
            self.budget.step(1 + len(target.about.inputs))
            if not 0 <= link.target_slot < len(slots) or slots[link.target_slot].link is not None:
                continue
            if any(one.is_dynamic for one in target.about.inputs.values()):
                raise target.node.refusal(
                    target.id,
                    "a link ends here, and none of the node's inputs names it",
                    reason="link that no input names",
                    hint="open and save the file in the editor, and check the links of this node",
                )
            slots[link.target_slot] = replace(slots[link.target_slot], link=name)
            self._indexes.of(scope.graph).attach(target.node.id, slots[link.target_slot].name, link)

    def _read_instance(self, placed: Placed, inner: Scope) -> None:
        """Give the instance a widget for each input of its subgraph that feeds a widget, with its saved value.

        Old versions list what is promoted in `properties.proxyWidgets`, as [inner node, widget] with -1 for the
        subgraph's own inputs, and the saved values have the order of that list.
        """
        values = list(placed.node.values) if not isinstance(placed.node.values, Mapping) else []
        backed = {slot.name: one for slot in inner.graph.inputs if (one := self._backing(inner, slot))}
        for name, one in backed.items():
            placed.widgets.values[name] = Widget(name, one.value, one.kind, one.declared)
        proxies = _proxies(placed.node.properties.get("proxyWidgets"))
        if proxies is None:
            for name, value in zip(backed, values, strict=False):
                placed.widgets.values[name].value = value
            for name, value in _quarantined(placed.node.properties.get("proxyWidgetErrorQuarantine")):
                if name in placed.widgets.values:
                    placed.widgets.values[name].value = value
            return
        controlled = {node_id for node_id, name in proxies if name == CONTROL}
        for (node_id, name), value in zip(proxies, values, strict=False):
            promoted = self._indexes.of(inner.graph).promoted_to(node_id, name)
            target = inner.nodes.get(node_id)
            is_primitive = target is not None and target.node.kind == PRIMITIVE
            if target is not None and not promoted and not (is_primitive and node_id in controlled):
                inner.promoted[node_id, name] = value
            # A promotion that the editor cannot take over gives its value to the input of the widget's name.
            named = name if target is None or is_primitive else promoted
            if named in placed.widgets.values:
                placed.widgets.values[named].value = value

    def _backing(self, inner: Scope, slot: Slot) -> Widget | None:
        """Return the first widget that an input of the subgraph feeds."""
        index = self._indexes.of(inner.graph)
        for name in slot.links:
            self.budget.step()
            link = inner.graph.links.get(name)
            target = inner.nodes.get(link.target) if link else None
            if link is not None and target is not None:
                fed = index.input_name(target.node.id, link)
                if fed in target.widgets.values:
                    return target.widgets.values[fed]
        return None

    def write_primitives(self) -> None:
        """Let every PrimitiveNode write its value into the widgets that it feeds."""
        for scope in self.scopes():
            for placed in scope.nodes.values():
                if placed.node.kind == PRIMITIVE and placed.node.values:
                    value = scope.promoted.get((placed.node.id, "value"), first_value(placed.node))
                    self._refuse_replaced_text(placed, value)
                    self._write(scope, placed.node.id, value)

    def _write(self, scope: Scope, node_id: str, value: Any) -> None:
        index = self._indexes.of(scope.graph)
        for link in index.from_node.get(node_id, ()):
            self.budget.step()
            target = scope.nodes.get(link.target)
            if target is None:
                continue
            if target.node.kind == REROUTE and target.node.id in index.from_node:
                raise target.node.refusal(
                    target.id,
                    "it passes on the value of a PrimitiveNode, which the editor writes or not "
                    "depending on how the file was made",
                    reason="PrimitiveNode behind a Reroute",
                    hint="in the editor link the PrimitiveNode directly to the widget",
                )
            widget = target.widgets.values.get(index.input_name(target.node.id, link))
            if widget is not None:
                widget.value = value

    def _refuse_replaced_text(self, placed: Placed, value: Any) -> None:
        """Raise `NotConvertible` if the PrimitiveNode fills in placeholders before it writes its text."""
        if not placed.node.properties.get(_REPLACES) or not isinstance(value, str):
            return
        self.budget.read(value)
        if value.count("%") > 1:
            raise placed.node.refusal(
                placed.id,
                "it fills in placeholders of its text for each run",
                reason="PrimitiveNode with placeholders",
                hint="write the text without placeholders, or export the workflow in API format",
            )

    def scopes(self) -> Iterator[Scope]:
        """Yield the root and every instance inside it."""
        waiting = [self.root]
        while waiting:
            scope = waiting.pop()
            yield scope
            waiting.extend(scope.inner.values())

    def input_of(self, placed: Placed, slot: Slot, kind: str | None = None, depth: int = 0) -> Source | Value | None:
        """Return what an input gets: the output of a node that runs, the value of an instance's widget, or nothing."""
        link = placed.scope.graph.link_of(slot)
        if link is None:
            return None
        return self._origin(placed.scope, link, kind or slot.kind, depth + 1)

    def _origin(self, scope: Scope, link: EditorLink, kind: str, depth: int) -> Source | Value | None:
        self.budget.step()
        if depth > DEEPEST:
            raise NotConvertible("a link goes round in a circle", reason="circle", node_id=link.target)
        if link.origin == INPUT_NODE and scope.host is not None:
            host = scope.host
            if not 0 <= link.origin_slot < len(host.widgets.slots):
                return None
            outer = host.widgets.slots[link.origin_slot]
            if outer.link is not None:
                return self.input_of(host, outer, kind, depth)
            widget = host.widgets.values.get(outer.name)
            return Value(widget.value) if widget else None
        origin = scope.nodes.get(link.origin)
        return None if origin is None else self._output_of(origin, link.origin_slot, kind, depth)

    def _output_of(self, placed: Placed, slot: int, kind: str, depth: int) -> Source | Value | None:
        if placed.node.mode == NEVER:
            return None
        if placed.node.mode == BYPASS:
            passed = self._bypass_slot(placed, slot, kind)
            return None if passed is None else self.input_of(placed, passed, kind, depth)
        inner = placed.scope.inner.get(placed.node.id)
        if inner is not None:
            link = self._indexes.of(inner.graph).to_output.get(slot)
            return None if link is None else self._origin(inner, link, kind, depth + 1)
        if placed.node.kind == GET:
            placed, slot = self._setter(placed), 0
        if placed.node.kind in VIRTUAL:
            if not 0 <= slot < len(placed.widgets.slots):
                return None
            return self.input_of(placed, placed.widgets.slots[slot], kind, depth)
        return Source(placed.id, slot)

    def _setter(self, placed: Placed) -> Placed:
        """Return the SetNode of the same name in the same graph."""
        name = first_value(placed.node)
        found = self._indexes.of(placed.scope.graph).setter(name)
        if found is not None:
            return placed.scope.nodes[found]
        raise placed.node.refusal(
            placed.id,
            f"there is no SetNode with the name {plain(name)[:80]!r}",
            reason="GetNode without a SetNode",
            hint="open the file in the editor and choose one of the names that a SetNode gives",
        )

    def _bypass_slot(self, placed: Placed, slot: int, kind: str) -> Slot | None:
        """Return the input that a bypassed node hands on in place of this output."""
        inputs, outputs = placed.widgets.slots, placed.node.outputs
        self.budget.step(1 + len(kind) // CHARACTERS)
        if not inputs or slot < 0:
            return None
        if kind == "*":
            return inputs[slot] if slot < len(inputs) else inputs[0]
        output = outputs[slot].kind if slot < len(outputs) else kind
        if slot < len(inputs) and self._fits(inputs[slot], output):
            return inputs[slot]
        exact = placed.input_of_kind.get(kind)
        return exact or next((one for one in inputs if self._fits(one, output)), None)

    def _fits(self, slot: Slot, kind: str) -> bool:
        self.budget.step(1 + (len(slot.kind) + len(kind)) // CHARACTERS)
        return fits(slot.kind, kind)


def _proxies(raw: object) -> list[tuple[str, str]] | None:
    if not isinstance(raw, list):
        return None
    return [(str(one[0]), str(one[1])) for one in raw if isinstance(one, list) and len(one) >= 2]


def _quarantined(raw: object) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each input of the subgraph whose promotion the editor could not take over.

    The first entry of a name counts. The editor reads none if one of them has another form.
    """
    entries = raw if isinstance(raw, list) else []
    if all(_is_quarantined(one) for one in entries):
        for one in reversed(entries):
            if one["originalEntry"][0] == "-1" and "hostValue" in one:
                yield one["originalEntry"][1], one["hostValue"]


def _is_quarantined(one: object) -> bool:
    if (
        not isinstance(one, Mapping)
        or one.get("attemptedAtVersion") != 1
        or one.get("reason") not in _QUARANTINE_REASONS
    ):
        return False
    entry = one.get("originalEntry")
    return isinstance(entry, list) and len(entry) in (2, 3) and all(isinstance(part, str) for part in entry)


def fits(one: str, other: str) -> bool:
    """Report whether the editor lets these types be linked: equal, any, or lists with a common member."""
    ours, theirs = one.lower(), other.lower()
    if ours == theirs or "*" in (ours, theirs):
        return True
    return bool(set(ours.split(",")) & set(theirs.split(",")))
