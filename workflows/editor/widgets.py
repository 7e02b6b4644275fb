"""Gives each widget of a node its saved value, as the editor does when it loads a file.

The editor makes a widget for each declared input of a value type, in the order of the declaration. A file saves the
values by position. `control_after_generate` has a place of its own after its widget; it is in the file and never in
the API graph. A dynamic combo is followed by the inputs of its chosen option, named `<combo>.<part>`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workflows.declarations import InputDeclaration, NodeDeclaration
from workflows.editor import pack_widgets
from workflows.editor.added import added_widgets
from workflows.editor.document import EditorNode, Slot, kind_of
from workflows.editor.text import script_text
from workflows.editor.widget_kinds import (
    ABSENT,
    AUTOGROW,
    DYNAMIC_COMBO,
    GROUP,
    IMAGE_COMPARE,
    KINDS,
    default_value,
    widget_kind,
)

CONTROL = "control_after_generate"
_SEEDS = ("seed", "noise_seed")
MOST_WIDGETS = 1_000


@dataclass(slots=True)
class Widget:
    """A widget and its value. `declared` is None for a widget that the editor's own code adds."""

    name: str
    value: Any
    kind: str = ""
    declared: InputDeclaration | None = None


@dataclass(slots=True)
class Widgets:
    """The widgets of one node by name, and its input slots in the editor's order."""

    values: dict[str, Widget] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    spare: int = 0
    unread: list[str] = field(default_factory=list)
    is_whole: bool = False
    """Whether these are all widgets that the JavaScript of the node's pack makes."""
    is_ambiguous: bool = False
    """Whether the editor takes values that are saved by name for values by position, as their number fits."""
    unknown_choices: list[tuple[InputDeclaration, Any]] = field(default_factory=list)
    parts: dict[str, Sequence[InputDeclaration]] = field(default_factory=dict)
    """The inputs that the chosen option of each dynamic combo adds, as the file has it, by the combo's name."""


def ordered(about: NodeDeclaration) -> list[InputDeclaration]:
    """Return the declared inputs in the order of the editor's widgets."""
    rank = {name: place for place, name in enumerate(about.input_order)}
    return sorted(about.inputs.values(), key=lambda one: rank.get(one.name, len(rank)))


def has_control(one: InputDeclaration, kind: str) -> bool:
    """Report whether the widget is followed by a place for what happens to it after a run."""
    flag = one.options.get(CONTROL)
    if kind not in ("INT", "FLOAT", "COMBO"):
        return False
    if flag is None:
        return kind == "INT" and one.name in _SEEDS
    return bool(flag)


class _Places:
    """The saved values, taken one by one."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values
        self._next = 0
        self.count = len(values)

    def take(self, default: Any) -> Any:
        self._next += 1
        return self._values[self._next - 1] if self._next <= len(self._values) else default

    def spare(self) -> int:
        """How many values were saved beyond the places; negative if values are missing."""
        return len(self._values) - self._next

    def rest(self) -> Sequence[Any]:
        return self._values[self._next :]


def read_widgets(node: EditorNode, about: NodeDeclaration) -> Widgets:
    """Return the node's widgets with their saved values, and its inputs: the declared ones, then any others."""
    found = Widgets()
    saved = {slot.name: slot for slot in node.inputs}
    inputs = ordered(about)
    own = pack_widgets.whole_widgets(node)
    if own is not None:
        found.is_whole = True
        found.values.update((name, Widget(name, value)) for name, value in own)
    elif isinstance(node.values, Mapping):
        _read_named(node.values, [*inputs, *about.widgets(node.values).values()], found)
        found.unread = [name for name in node.values if name not in found.values]
        found.is_ambiguous = 0 < len(node.values) == len(_forced(inputs))
    else:
        places = _Places(_migrated(node.values, inputs))
        _read_places(places, inputs, found)
        choice = next(iter(found.values.values()), None)
        for name, value in added_widgets(node.kind, places.rest(), choice.value if choice else None):
            found.values[name] = Widget(name, value)
        # Of a custom class such a place may as well be a widget that its JavaScript adds, so it counts as one too many.
        forced = len(node.values) - places.count if about.is_custom else 0
        found.spare = places.spare() + forced
        if node.kind in pack_widgets.BUTTONS:
            name = pack_widgets.BUTTONS[node.kind]
            found.values[name] = Widget(name, places.take(None))
            found.spare -= 1
        elif found.spare == pack_widgets.NOTED.get(node.kind):
            found.spare = 0
    # The editor puts the inputs of widgets after all others.
    in_order = sorted(inputs, key=lambda one: widget_kind(one) is not None)
    names = [name for one in in_order for name in _slot_names(one, saved, found)]
    kinds = {one.name: kind_of(one.kind) for one in inputs}
    for name in dict.fromkeys([*names, *saved]):
        slot = saved.get(name)
        if kinds and slot and slot.widget and name not in kinds and name not in found.values and "." not in name:
            continue  # the input of a widget that the class no longer has
        kind = kinds.get(name) or (slot.kind if slot else "*")
        found.slots.append(Slot(name, kind, slot.link if slot else None, name if name in found.values else None))
    return found


def _read_places(places: _Places, inputs: Sequence[InputDeclaration], found: Widgets) -> None:
    for one in inputs:
        kind = widget_kind(one)
        if kind is None or len(found.values) > MOST_WIDGETS:
            continue
        default = default_value(one, kind)
        value = places.take(default) if KINDS[kind].saved else default
        if KINDS[kind].exported:
            found.values[one.name] = Widget(one.name, _as_kept(value, one, kind), kind, one)
        for _ in range(_followers(one, kind)):
            places.take(None)
        if kind == DYNAMIC_COMBO:
            parts = chosen_parts(one, value)
            if parts is None:
                found.unknown_choices.append((one, value))
            found.parts[one.name] = parts or ()
            _read_places(places, parts or (), found)


def _followers(one: InputDeclaration, kind: str) -> int:
    """Return how many places follow the widget's own."""
    control = (2 if kind == "COMBO" else 1) if has_control(one, kind) else 0
    return KINDS[kind].followers + control


def _as_kept(value: Any, one: InputDeclaration, kind: str) -> Any:
    """Return the value as the widget keeps it. A text area makes a text of whatever it is given."""
    if kind == "COMBO" and value is None:
        default = "" if one.options.get("multi_select") else default_value(one, kind)
        return None if default is ABSENT else default
    if KINDS[kind].is_text_area or (kind == "STRING" and one.options.get("multiline")):
        return "" if value is None else script_text(value)
    return value


def _read_named(values: Mapping[str, Any], inputs: Sequence[InputDeclaration], found: Widgets) -> None:
    for one in inputs:
        kind = widget_kind(one)
        if kind is not None and KINDS[kind].exported:
            default = default_value(one, kind)
            value = default if kind == IMAGE_COMPARE else values.get(one.name, default)
            found.values[one.name] = Widget(one.name, value, kind, one)
            if kind == DYNAMIC_COMBO:
                parts = found.parts[one.name] = chosen_parts(one, value) or ()
                _read_named(values, parts, found)


def chosen_parts(one: InputDeclaration, value: Any) -> Sequence[InputDeclaration] | None:
    """Return the inputs that the chosen option of a dynamic combo adds, or None if the value is no option."""
    # A longer text is no key. The rest of a long list, which may belong to many nodes, is not read.
    return one.option_parts.get(script_text(value, one.longest_option + 1)) if value else None


def _migrated(values: Sequence[Any], inputs: Sequence[InputDeclaration]) -> Sequence[Any]:
    """Drop places that old versions of the editor saved, if the count says that they are there.

    These are the places of inputs with `forceInput`, and of widgets that have no place any more.
    """
    if any(one.kind == GROUP for one in inputs):
        return values
    forced = _forced(inputs)
    layout = list(_layout(inputs))
    if not any(forced) and len(values) == sum(layout):
        return values
    kept = [value for place, value in enumerate(values) if place >= len(layout) or layout[place]]
    counted = next((one for one in (kept, values) if len(one) == len(forced)), None)
    if counted is None:
        return values
    return [value for value, drop in zip(counted, forced, strict=True) if not drop]


def _forced(inputs: Sequence[InputDeclaration]) -> list[bool]:
    """Return for each place of an old file whether it belongs to an input with `forceInput`."""
    forced: list[bool] = []
    for one in inputs:
        kind = widget_kind(one)
        if one.options.get("forceInput") or (kind is not None and KINDS[kind].saved):
            is_forced = bool(one.options.get("forceInput"))
            forced += [is_forced, False] if one.options.get(CONTROL) else [is_forced]
    return forced


def _layout(inputs: Sequence[InputDeclaration]) -> Iterator[bool]:
    """Yield for each widget of a new node, parts included, whether the file has a place for it."""
    for one in inputs:
        kind = widget_kind(one)
        if kind is not None:
            yield KINDS[kind].saved
            yield from [True] * _followers(one, kind)
            if kind == DYNAMIC_COMBO:
                yield from _layout(chosen_parts(one, default_value(one, kind)) or ())


def _slot_names(one: InputDeclaration, saved: Mapping[str, Slot], found: Widgets) -> Iterator[str]:
    if one.kind in (AUTOGROW, GROUP):
        yield from (name for name in saved if name.startswith(f"{one.name}."))
        return
    if not one.options.get("socketless"):
        yield one.name
    for part in found.parts.get(one.name, ()):
        yield from _slot_names(part, saved, found)
