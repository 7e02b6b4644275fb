"""Converts a document of ComfyUI's editor to the API format, exactly as the editor's own export does it, or refuses.

What cannot be known without the editor raises `NotConvertible`, with the node's id, its title and the reason. The
editor gives new ids to nodes whose id a subgraph definition shares with another graph; here they keep their ids, since
the ids of the instances before them already make them unique.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from workflows.catalogue import Catalogue
from workflows.declarations import UNKNOWN
from workflows.editor import viewer
from workflows.editor.budget import Budget
from workflows.editor.document import BYPASS, NEVER, parse_document
from workflows.editor.flatten import SILENT, VIRTUAL, Flattener, Placed, Scope, Source, Value
from workflows.editor.growing import refuse_lost_links
from workflows.editor.refusals import (
    exported_view,
    missing_class,
    refuse_browser_input,
    refuse_foreign_values,
    refuse_unknown_choice,
    refuse_use_everywhere,
    unknown_choice,
)
from workflows.editor.text import FILE_NAME_CLASSES, Draw, dynamic_prompt, fill_placeholders
from workflows.editor.widget_kinds import ABSENT, exported, literal
from workflows.editor.widgets import CONTROL, Widget
from workflows.errors import WorkflowError
from workflows.graph import LONGEST_NAME

_SEARCH_NAME = "Node name for S&R"
_PACK_FORMS = {
    "cnr_id": re.compile(r"[A-Za-z0-9][\w.-]{0,99}"),
    "aux_id": re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/[\w.-]{1,100}"),
    "ver": re.compile(
        r"v?((?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}(?:[-+][\w.+-]+)?|unknown|[0-9a-fA-F]{7,40})", re.ASCII
    ),
}
"""The forms of a node's pack, its GitHub repository and its version. The editor drops a value of another form."""


@dataclass(frozen=True, slots=True)
class Note:
    """What the conversion did with a node that is not in the API graph as it stands in the file."""

    node_id: str
    title: str
    message: str


@dataclass(frozen=True, slots=True)
class DocumentNode:
    """Where a node of the graph stands in the editor's document: a JSON pointer, and a text for people."""

    pointer: str
    label: str

    def locate(self, error: WorkflowError) -> None:
        """Let an error of the graph point at the node in the editor's document."""
        error.pointer = self.pointer
        error.message = f"{error.message}; in the editor: {self.label}"


@dataclass(frozen=True, slots=True)
class Conversion:
    """The graph in API format, the notes in the order of the nodes, and the editor's node for each node by id.

    `steps` is the work that it took.
    """

    workflow: dict[str, Any]
    notes: Sequence[Note]
    document_nodes: Mapping[str, DocumentNode] = field(default_factory=dict)
    steps: int = 0


def convert(
    raw: object,
    catalogue: Catalogue,
    *,
    now: datetime | None = None,
    draw: Draw | None = None,
    budget: Budget | None = None,
) -> Conversion:
    """Convert a document that `json.loads` returned. Raises `BadEditorFile` or `NotConvertible`.

    `now` is the time for dates in file names, `draw` chooses among the options of dynamic prompts. `budget` is how much
    work the file may cause.
    """
    budget = budget or Budget()
    flattener = Flattener(parse_document(raw), catalogue, budget)
    flattener.write_primitives()
    emitter = _Emitter(flattener, budget, now or datetime.now().astimezone(), draw or random.randrange)
    emitter.emit(flattener.root)
    emitter.drop_dangling()
    return Conversion(emitter.workflow, emitter.notes, emitter.document_nodes, budget.steps)


@dataclass
class _Emitter:
    flattener: Flattener
    budget: Budget
    now: datetime
    draw: Draw
    workflow: dict[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    document_nodes: dict[str, DocumentNode] = field(default_factory=dict)

    def emit(self, scope: Scope) -> None:
        """Add the nodes of the scope and of the instances in it."""
        for placed in scope.nodes.values():
            node = placed.node
            if node.mode in (NEVER, BYPASS) and not (node.id in scope.inner and scope.path):
                self._note(placed, "left out, because it is " + ("muted" if node.mode == NEVER else "bypassed"))
            elif node.id in scope.inner:
                # An instance that is bypassed inside another instance comes here too: the editor exports its insides.
                self.emit(scope.inner[node.id])
            elif node.kind in VIRTUAL:
                if node.kind not in SILENT:
                    self._note(placed, "replaced by what it passes on")
            else:
                node_in_api = self._api_node(placed)
                # Texts are shared until the graph is written as JSON, so each node is counted when it is made.
                self.budget.write({placed.id: node_in_api})
                self.workflow[placed.id] = node_in_api
                self.document_nodes[placed.id] = _document_node(placed)

    def drop_dangling(self) -> None:
        """Delete the links to nodes that are not in the graph."""
        for node_id, node in self.workflow.items():
            inputs: Mapping[str, Any] = node["inputs"]
            for name in [name for name, value in inputs.items() if _leads_nowhere(value, self.workflow)]:
                self._add_note(Note(node_id, node["_meta"]["title"], f"its input `{name}` has lost its source"))
                del node["inputs"][name]

    def _note(self, placed: Placed, message: str) -> None:
        self._add_note(Note(placed.id, placed.node.title or placed.node.kind, message))

    def _add_note(self, note: Note) -> None:
        self.budget.write([note.node_id, note.title, note.message])
        self.notes.append(note)

    def _api_node(self, placed: Placed) -> dict[str, Any]:
        node, widgets = placed.node, placed.widgets
        self._refuse(placed)
        inputs: dict[str, Any] = {}
        for widget in widgets.values.values():
            value = placed.scope.promoted.get((node.id, widget.name), widget.value)
            if node.kind in viewer.CLASSES and widget.name == viewer.INPUT:
                value = exported_view(node, placed.id, {one.name: one.value for one in widgets.values.values()})
            if value is not ABSENT:
                inputs[widget.name] = exported(self._exported(placed, widget, value), widget.kind)
        for slot in widgets.slots:
            match self.flattener.input_of(placed, slot):
                case Source(node_id, number):
                    inputs[slot.name] = [node_id, number]
                case Value(value) if value is not ABSENT:
                    inputs[slot.name] = literal(value)
        title = node.title or placed.about.title or node.kind
        return {"inputs": inputs, "class_type": node.kind, "_meta": {"title": title, **_pack(node.properties)}}

    def _refuse(self, placed: Placed) -> None:
        node = placed.node
        refuse_use_everywhere(node, placed.id)
        if node.kind not in self.flattener.catalogue:
            raise missing_class(node, placed.id)
        refuse_foreign_values(node, placed.id, placed.about, placed.widgets)
        refuse_browser_input(node, placed.id, placed.about)
        self.budget.step(len(placed.widgets.unknown_choices) * (1 + len(node.inputs)))
        for one, value in placed.widgets.unknown_choices:
            refuse_unknown_choice(node, placed.id, one, value)
            self._note(placed, f"{unknown_choice(one, value)}; the values after it may be shifted, as in the editor")
        refuse_lost_links(node, placed.id, placed.about, placed.widgets)

    def _exported(self, placed: Placed, widget: Widget, value: Any) -> Any:
        """Return the value with what the editor writes into texts at export."""
        if not isinstance(value, str):
            return value
        if widget.declared is not None and widget.declared.options.get("dynamicPrompts"):
            return dynamic_prompt(value, self.draw, self.budget)
        if widget.name == "filename_prefix" and placed.node.kind in FILE_NAME_CLASSES and "%" in value:
            return fill_placeholders(value, self.now, self._widget_value, self.budget)
        return value

    def _widget_value(self, name: str, widget: str) -> Any:
        """Return the value of a node's widget, the node by its name for search and replace, else by its title."""
        found = self._by_name.get(name) or self._by_title.get(name)
        if found is None:
            raise KeyError(name)
        if widget not in found.widgets.values and (widget == CONTROL or found.node.kind in VIRTUAL):
            raise found.node.refusal(
                found.id,
                f"the name of a file asks for its widget `{widget[:80]}`, which is not exported",
                reason="placeholder of a widget that is not exported",
                hint="write the text itself into the name of the file",
            )
        value = found.widgets.values[widget].value
        return "" if value is None else value

    @cached_property
    def _by_name(self) -> dict[str, Placed]:
        """The first node by each name for search and replace. The editor gives a node that of its class."""
        return {name: one for one in reversed(self._all) if isinstance(name := _search_name(one), str)}

    @cached_property
    def _by_title(self) -> dict[str, Placed]:
        """The first node by each title."""
        return {one.node.title or one.about.title or one.node.kind: one for one in reversed(self._all)}

    @cached_property
    def _all(self) -> list[Placed]:
        """All nodes, those of an instance after it."""
        return list(_walked(self.flattener.root))


def _walked(scope: Scope) -> Iterator[Placed]:
    waiting = [(scope, iter(scope.nodes.values()))]
    while waiting:
        scope, left = waiting[-1]
        placed = next(left, None)
        if placed is None:
            waiting.pop()
            continue
        yield placed
        inner = scope.inner.get(placed.node.id)
        if inner is not None:
            waiting.append((inner, iter(inner.nodes.values())))


def _search_name(placed: Placed) -> Any:
    named = placed.node.properties.get(_SEARCH_NAME)
    has_own = placed.about is not UNKNOWN and placed.node.kind not in FILE_NAME_CLASSES
    return placed.node.kind if named is None and has_own else named


def _document_node(placed: Placed) -> DocumentNode:
    title = placed.node.title or placed.about.title or placed.node.kind
    within = f" in the subgraph “{placed.scope.graph.name[:80]}”" if placed.scope.path else ""
    return DocumentNode(placed.node.pointer, f"node {placed.node.id[:80]} “{title[:80]}”{within}")


def _pack(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return the node's pack and version as the editor exports them."""
    named = {name: properties.get(name) for name in _PACK_FORMS}
    given = {name: value for name, value in named.items() if isinstance(value, str) and len(value) <= LONGEST_NAME}
    pack = {name: value for name, value in given.items() if _PACK_FORMS[name].fullmatch(value)}
    return {name: value.removeprefix("v") if name == "ver" else value for name, value in pack.items()}


def _leads_nowhere(value: Any, workflow: Mapping[str, Any]) -> bool:
    return isinstance(value, list) and value[0] not in workflow
