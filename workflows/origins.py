"""Finds for each value of a converted graph the widget of the editor that sets it.

A user sees the widgets of the root graph: those of its nodes, of its subgraph instances, and of its PrimitiveNodes.
One of them may set the values of several nodes, since its links lead through subgraphs and reroutes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflows.catalogue import Catalogue
from workflows.editor.document import INPUT_NODE, Slot, parse_document
from workflows.editor.flatten import DEEPEST, PRIMITIVE, REROUTE, VIRTUAL, Flattener, Placed, Scope

_PLAIN_TITLES = (PRIMITIVE, "Primitive")
Place = tuple[str, str]
"""A value of a graph: the node's id and the input's name."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The widget `field` of a node of the editor. `path` are the instances that the node is in; empty for the root.

    `shown` is what the editor shows for the widget of an instance. `title` is that of an instance or a PrimitiveNode,
    if it is the author's own: these nodes are not in the graph.
    """

    path: tuple[str, ...]
    node: str
    field: str
    shown: str = ""
    title: str = ""
    is_primitive: bool = False
    is_instance: bool = False


def origins(document: object, catalogue: Catalogue) -> dict[Place, Origin]:
    """Return the origin of each widget of the nodes that run. Raises as `workflows.editor.convert`."""
    flattener = Flattener(parse_document(document), catalogue)
    labels = _labels(document)
    found: dict[Place, Origin] = {}
    for scope in flattener.scopes():
        for placed in scope.nodes.values():
            if placed.node.id in scope.inner or placed.node.kind in VIRTUAL:
                continue
            slots = {slot.name: slot for slot in placed.widgets.slots}
            for name in placed.widgets.values:
                origin = _origin(flattener, placed, name, slots.get(name), labels)
                if origin is not None:
                    found[placed.id, name] = origin
    return found


def _origin(
    flattener: Flattener, placed: Placed, name: str, slot: Slot | None, labels: Mapping[Place, str]
) -> Origin | None:
    """Follow the input's link to the widget at its beginning; None if a node computes the value."""
    for _ in range(DEEPEST):
        flattener.budget.step()
        scope = placed.scope
        link = scope.graph.link_of(slot) if slot is not None else None
        if link is None:
            return _widget(scope, placed, name, labels)
        if link.origin == INPUT_NODE:
            if scope.host is None or not 0 <= link.origin_slot < len(scope.host.widgets.slots):
                return None
            placed, slot = scope.host, scope.host.widgets.slots[link.origin_slot]
            name = slot.name
            continue
        before = scope.nodes.get(link.origin)
        if before is None:
            return None
        if before.node.kind == PRIMITIVE:
            title = before.node.title or ""
            title = "" if title in _PLAIN_TITLES else title
            return Origin(scope.path, before.node.id, "value", title=title, is_primitive=True)
        if before.node.kind != REROUTE or not before.widgets.slots:
            return None
        placed, slot = before, before.widgets.slots[0]
    return None


def _widget(scope: Scope, placed: Placed, name: str, labels: Mapping[Place, str]) -> Origin | None:
    if placed.node.kind == REROUTE:
        return None
    if placed.node.id in scope.inner:
        return _of_instance(placed, name, labels.get((placed.node.kind, name), name))
    if scope.host is not None and (placed.node.id, name) in scope.promoted:
        # Old files list the widgets that an instance shows, without a link to them.
        return _of_instance(scope.host, name, name)
    return Origin(scope.path, placed.node.id, name)


def _of_instance(placed: Placed, name: str, shown: str) -> Origin:
    node, definition = placed.node, placed.scope.inner.get(placed.node.id)
    is_plain = definition is not None and node.title == definition.graph.name
    return Origin(placed.scope.path, node.id, name, shown, "" if is_plain else node.title or "", is_instance=True)


def _labels(document: object) -> dict[Place, str]:
    """Return the labels that differ from the names, of the inputs of each subgraph definition."""
    found: dict[Place, str] = {}
    for definition in _definitions(document, 0):
        for one in _objects(definition.get("inputs")):
            label = one.get("label")
            if isinstance(label, str) and label:
                found[str(definition.get("id")), str(one.get("name"))] = label
    return found


def _definitions(owner: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    listed = owner.get("definitions") if isinstance(owner, Mapping) and depth <= DEEPEST else None
    for one in _objects(listed.get("subgraphs") if isinstance(listed, Mapping) else None):
        yield one
        yield from _definitions(one, depth + 1)


def _objects(listed: Any) -> Sequence[Mapping[str, Any]]:
    return [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
