"""Proposes the inputs of a named workflow, from what the author of a file chose and named.

What the author chose for App mode is taken unchanged. Otherwise the inputs are what a user of the workflow is likely to
set: the files that it loads, its prompts, seeds and picture sizes, the values of primitive nodes, the widgets that a
subgraph shows, and the value of a node with a title of its own. All other values are listed after them.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from workflows.catalogue import Catalogue
from workflows.declarations import extension_of
from workflows.graph import Graph, Node, is_editor_file, parse_graph
from workflows.input_names import fed_inputs, prompt_roles, slug
from workflows.manifest import NamedInput
from workflows.model_files import MODEL_EXTENSIONS
from workflows.origins import Origin, Place, origins
from workflows.typed_inputs import SEEDS, declared_inputs, typed_input

MOST_CHOSEN = 100
"""Inputs that are proposed for one workflow."""
MOST_OTHERS = 200
"""Further values that are listed."""
LONGEST_TITLE = 200

Source = Literal["app", "file", "prompt", "subgraph", "primitive", "title", "seed", "size", "other"]
"""Why an input is proposed; `other` if it is only listed."""

_ORDER: Sequence[Source] = ("file", "prompt", "subgraph", "primitive", "title", "size", "seed", "other")
_PRIMITIVES = frozenset(
    {"PrimitiveBoolean", "PrimitiveFloat", "PrimitiveInt", "PrimitiveString", "PrimitiveStringMultiline"}
)
_TEXTS = ("text", "prompt", "positive_prompt", "negative_prompt")
_FILE_NAME = "filename_prefix"
_SIZES = ("width", "height", "length")
_PLAIN_NAMES = ("", "file", "string", "string_a", "text", "value")
"""Names of inputs that say nothing about what they are for."""
_ENTITY = re.compile(r"[0-9a-fA-F-]{36}:([^:]+):.+", re.DOTALL)
"""How newer editors name a widget of App mode: the graph's id, the node's, and the widget's name."""


@dataclass(frozen=True, slots=True)
class ProposedInput:
    """An input of a named workflow. `origin` says in words which widget of the editor it is, `default` its value."""

    name: str
    source: Source
    origin: str
    declared: NamedInput
    default: Any

    @property
    def is_chosen(self) -> bool:
        return self.source != "other"


@dataclass(frozen=True, slots=True)
class _Widget:
    """A widget of the editor, or a value of a graph, with all values that it sets. `shown` is its name for people."""

    places: list[Place]
    declared: NamedInput
    default: Any
    shown: str
    title: str
    kind: str
    source: Source


def propose(document: Any, workflow: Mapping[str, Any], catalogue: Catalogue) -> list[ProposedInput]:
    """Return the proposed inputs in their order, then the other values. `workflow` is the document's API graph."""
    graph = parse_graph(workflow)
    known = origins(document, catalogue) if is_editor_file(document) else {}
    widgets = _widgets(graph, known, catalogue)
    ranked = _of_app_mode(document, widgets) or _by_kind(widgets)
    names = _Names(graph)
    chosen = names.give([one for one in ranked if one.source != "other"][:MOST_CHOSEN])
    return [*chosen, *names.give([one for one in ranked if one.source == "other"][:MOST_OTHERS])]


def _widgets(graph: Graph, known: Mapping[Place, Origin], catalogue: Catalogue) -> dict[Origin, _Widget]:
    """Return what can be set in the graph, by the widget of the editor that sets it."""
    found: dict[Origin, _Widget] = {}
    for node_id, node in graph.nodes.items():
        known_inputs = declared_inputs(catalogue.declaration(node.class_type), node.inputs)
        for name, value in node.inputs.items():
            declared = known_inputs.get(name)
            typed = typed_input(declared, catalogue, node.class_type, value)
            if typed is None:
                continue
            origin = known.get((node_id, name)) or Origin((), node_id, name)
            before = found.get(origin)
            if before is None:
                is_long = bool(declared and declared.options.get("multiline"))
                source = _source(origin, node.class_type, name, typed, value, is_long=is_long)
                title = origin.title if origin.is_instance or origin.is_primitive else _title(node, catalogue)
                shown = (origin.shown or name)[:LONGEST_TITLE]
                found[origin] = _Widget(
                    [(node_id, name)], typed, value, shown, title[:LONGEST_TITLE], node.class_type, source
                )
            elif before.default == value and before.declared == typed:
                before.places.append((node_id, name))
    return found


def _source(origin: Origin, kind: str, name: str, typed: NamedInput, value: Any, *, is_long: bool) -> Source:
    if typed.is_file:
        return "file"
    if extension_of(value) in MODEL_EXTENSIONS:
        return "other"  # for a caller of a named workflow, another model is another workflow
    if typed.type == "integer" and name in SEEDS:
        return "seed"
    if typed.type == "string" and (is_long or name in _TEXTS):
        return "prompt"
    if origin.is_instance:
        return "subgraph"
    if origin.is_primitive or (kind in _PRIMITIVES and name == "value"):
        return "primitive"
    return "size" if typed.type == "integer" and name in _SIZES else "other"


def _title(node: Node, catalogue: Catalogue) -> str:
    """Return the title that the author gave to a node; empty if it has the title of its class."""
    about = node.rest.get("_meta")
    title = about.get("title") if isinstance(about, Mapping) else None
    if not isinstance(title, str) or title in (node.class_type, catalogue.declaration(node.class_type).title):
        return ""
    return title[:LONGEST_TITLE]


def _of_app_mode(document: Any, widgets: Mapping[Origin, _Widget]) -> list[_Widget]:
    """Return the widgets in the author's order of App mode, then the others; empty if the author chose none."""
    # A node of the root takes precedence over one of a subgraph with the same id, and a widget of the editor over the
    # value that it sets.
    by_place: dict[Place, Origin] = {}
    for origin, widget in widgets.items():
        for node_id, name in widget.places:
            by_place.setdefault((node_id.rpartition(":")[2], name), origin)
    by_place |= {(origin.node, origin.field): origin for origin in widgets if origin.path}
    by_place |= {(origin.node, origin.field): origin for origin in widgets if not origin.path}
    places = dict.fromkeys(_app_places(document))
    chosen = dict.fromkeys(by_place[place] for place in places if place in by_place)
    if not chosen:
        return []
    others = [replace(widget, source="other") for origin, widget in widgets.items() if origin not in chosen]
    return [*(replace(widgets[origin], source="app") for origin in chosen), *others]


def _app_places(document: Any) -> Iterator[Place]:
    """Yield the node's id and the widget's name of each input of App mode."""
    extra = document.get("extra") if is_editor_file(document) else None
    linear = extra.get("linearData") if isinstance(extra, Mapping) else None
    listed = linear.get("inputs") if isinstance(linear, Mapping) else None
    for entry in listed[:MOST_CHOSEN] if isinstance(listed, list) else ():
        if isinstance(entry, list) and len(entry) >= 2:
            entity = _ENTITY.fullmatch(str(entry[0]))
            yield (entity[1] if entity else str(entry[0])), str(entry[1])


def _by_kind(widgets: Mapping[Origin, _Widget]) -> list[_Widget]:
    """Return the widgets in the order of their kinds. Those inside subgraphs count if nothing else is found."""
    titled = _with_titles(widgets)
    shown = [replace(widget, source="other") if origin.path else widget for origin, widget in titled.items()]
    if all(widget.source == "other" for widget in shown):
        shown = list(titled.values())
    return sorted(_with_one_seed(_with_one_size(shown)), key=lambda widget: _ORDER.index(widget.source))


def _with_titles(widgets: Mapping[Origin, _Widget]) -> dict[Origin, _Widget]:
    """Choose the value of a node that has one value and a title of its own, unless it only names an output's file."""
    values = Counter((origin.path, origin.node) for origin in widgets)
    return {
        origin: replace(widget, source="title")
        if widget.source == "other"
        and widget.title
        and widget.shown != _FILE_NAME
        and values[origin.path, origin.node] == 1
        else widget
        for origin, widget in widgets.items()
    }


def _with_one_size(widgets: list[_Widget]) -> list[_Widget]:
    """Choose a width or height only if the workflow has one: of several, none is that of the whole picture."""
    counts = Counter(widget.shown for widget in widgets if widget.source == "size")
    return [
        replace(widget, source="other") if widget.source == "size" and counts[widget.shown] > 1 else widget
        for widget in widgets
    ]


def _with_one_seed(widgets: list[_Widget]) -> list[_Widget]:
    """Join all seeds into one input: a user who sets the seed expects the same result, however many samplers run."""
    seeds = [widget for widget in widgets if widget.source == "seed"]
    if len(seeds) < 2:
        return widgets
    lows = [low for widget in seeds if (low := widget.declared.min) is not None]
    highs = [high for widget in seeds if (high := widget.declared.max) is not None]
    low, high = max(lows, default=None), min(highs, default=None)
    first, values = seeds[0], [widget.default for widget in seeds]
    if (low is not None and min(values) < low) or (high is not None and max(values) > high):
        return widgets  # a manifest must fit the values of its graph
    joined = replace(
        first,
        places=[place for widget in seeds for place in widget.places],
        declared=first.declared.model_copy(update={"min": low, "max": high}),
    )
    return [joined if widget is first else widget for widget in widgets if widget is first or widget.source != "seed"]


class _Names:
    """Names inputs: after what they are, and after their node's title where two are the same. No name is used twice."""

    def __init__(self, graph: Graph) -> None:
        self._roles = prompt_roles(graph)
        self._fed = fed_inputs(graph)
        self._used: set[str] = set()

    def give(self, widgets: Sequence[_Widget]) -> list[ProposedInput]:
        firsts = [self._first(widget) for widget in widgets]
        found = []
        for widget, first in zip(widgets, firsts, strict=True):
            title = slug(widget.title)
            titled = title if first == title or widget.declared.is_file else slug(f"{widget.title} {first}")
            candidates = [first] if firsts.count(first) == 1 or not widget.title else [titled, first]
            name = next((one for one in candidates if one and one not in self._used), "")
            name = name or self._numbered(candidates[0] or first)
            self._used.add(name)
            places = tuple(f"{node_id}.{field}" for node_id, field in widget.places)
            declared = widget.declared.model_copy(update={"places": places})
            default = None if declared.is_file else widget.default
            found.append(ProposedInput(name, widget.source, _in_words(widget), declared, default))
        return found

    def _first(self, widget: _Widget) -> str:
        node_id, _ = widget.places[0]
        shown, title = slug(widget.shown), slug(widget.title)
        if widget.source == "seed":
            return "seed"
        if widget.declared.is_file and widget.source in ("file", "app"):
            return title or widget.declared.type
        is_plain = shown in _PLAIN_NAMES
        if node_id in self._roles and widget.declared.type == "string" and (is_plain or shown == "prompt"):
            return self._roles[node_id]
        if title and (is_plain or widget.source in ("primitive", "title")):
            return title
        if shown == "value" and node_id in self._fed:
            return slug(self._fed[node_id]) or "input"
        return shown or "input"

    def _numbered(self, name: str) -> str:
        number = 2
        while f"{name}_{number}" in self._used:
            number += 1
        return f"{name}_{number}"


def _in_words(widget: _Widget) -> str:
    node_id, field = widget.places[0]
    title = f" “{widget.title}”" if widget.title else ""
    more = f", and {len(widget.places) - 1} more" if len(widget.places) > 1 else ""
    return f"{field} of node {node_id}{title} ({widget.kind}){more}"
