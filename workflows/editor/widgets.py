"""Gives each widget of a node its saved value, as the editor does when it loads a file.

The editor makes a widget for each declared input of a value type, in the order of the declaration. A file saves the
values by position. `control_after_generate` has a place of its own after its widget; it is in the file and never in
the API graph. A dynamic combo is followed by the inputs of its chosen option, named `<combo>.<part>`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workflows.declarations import InputDeclaration, NodeDeclaration, declared_inputs
from workflows.editor.document import EditorNode, Slot, kind_of
from workflows.editor.specials import added_widgets
from workflows.editor.text import script_text

ABSENT = object()
"""The value of a widget that has none: a combo without choices. It does not appear in the API graph."""
CONTROL = "control_after_generate"
_SEEDS = ("seed", "noise_seed")
_DEFAULTS = {"INT": 0, "FLOAT": 0, "STRING": "", "BOOLEAN": False, "COLOR": "#ffffff"}
_WIDGET_KINDS = frozenset(
    {*_DEFAULTS, "BOUNDING_BOX", "BOUNDING_BOXES", "COLORS", "CURVE", "IMAGECOMPARE", "PAINTER"}
    | {"COMFY_DYNAMICCOMBO_V3"}
)
_COMPOSED: Mapping[str, Any] = {
    "BOUNDING_BOX": {"x": 0, "y": 0, "width": 512, "height": 512},
    "BOUNDING_BOXES": [],
    "COLORS": [],
    "IMAGECOMPARE": ["", ""],
}
_AUTOGROW, _GROUP, _DYNAMIC_COMBO = "COMFY_AUTOGROW_V3", "COMFY_DYNAMICGROUP_V3", "COMFY_DYNAMICCOMBO_V3"
MOST_WIDGETS = 1_000


@dataclass(slots=True)
class Widget:
    """A widget and its value. `declared` is None for a widget that the editor's own code adds."""

    name: str
    value: Any
    declared: InputDeclaration | None = None


@dataclass(slots=True)
class Widgets:
    """The widgets of one node by name, and its input slots in the editor's order."""

    values: dict[str, Widget] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    nested_links: int = 0
    spare: int = 0
    unread: list[str] = field(default_factory=list)
    unknown_choices: list[tuple[InputDeclaration, Any]] = field(default_factory=list)


def ordered(about: NodeDeclaration) -> list[InputDeclaration]:
    """Return the declared inputs in the order of the editor's widgets."""
    rank = {name: place for place, name in enumerate(about.input_order)}
    return sorted(about.inputs.values(), key=lambda one: rank.get(one.name, len(rank)))


def widget_kind(one: InputDeclaration) -> str | None:
    """Return the type of the input's widget, or None for an input that can only be linked."""
    if one.options.get("forceInput"):
        return None
    if one.is_combo:
        return "COMBO"
    for kind in (one.options.get("widgetType"), one.kind):
        # A pack may have a widget of its own for a number or a text; its value is one all the same.
        if isinstance(kind, str) and kind in _WIDGET_KINDS:
            return kind
    return None


def has_control(one: InputDeclaration, kind: str) -> bool:
    """Report whether the widget is followed by a place for what happens to it after a run."""
    flag = one.options.get(CONTROL)
    if kind not in ("INT", "FLOAT", "COMBO"):
        return False
    if flag is None:
        return kind == "INT" and one.name in _SEEDS
    return bool(flag)


def default_value(one: InputDeclaration, kind: str) -> Any:
    given = one.options.get("default")
    if kind == "COMBO":
        return given if given is not None else next(iter(one.choices or ()), ABSENT)
    if kind == _DYNAMIC_COMBO:
        return next((option.get("key") for option in _options(one)), ABSENT)
    if kind in _COMPOSED:
        return given if given is not None else _COMPOSED[kind]
    return given if given is not None else _DEFAULTS.get(kind)


def _options(one: InputDeclaration) -> list[Mapping[str, Any]]:
    listed = one.options.get("options")
    return [option for option in listed if isinstance(option, Mapping)] if isinstance(listed, list) else []


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
    if isinstance(node.values, Mapping):
        _read_named(node.values, [*inputs, *about.widgets(node.values).values()], found)
        found.unread = [name for name in node.values if name not in found.values]
    else:
        places = _Places(_without_forced(node.values, inputs))
        _read_places(places, inputs, found)
        first = next(iter(found.values.values()), None)
        for name, value in added_widgets(node.kind, places.rest(), first.value if first else None):
            found.values[name] = Widget(name, value)
        # Of a custom class such a place may as well be a widget that its JavaScript adds, so it counts as one too many.
        forced = len(node.values) - places.count if about.is_custom else 0
        found.spare = places.spare() + forced
    names = [name for one in inputs for name in _slot_names(one, saved, found)]
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
        value = places.take(default_value(one, kind))
        found.values[one.name] = Widget(one.name, _as_kept(value, one, kind), one)
        if has_control(one, kind):
            places.take(None)
            if kind == "COMBO":
                places.take(None)
        if kind == _DYNAMIC_COMBO:
            if all(option.get("key") != value for option in _options(one)):
                found.unknown_choices.append((one, value))
            _read_places(places, list(_chosen(one, value)), found)


def _as_kept(value: Any, one: InputDeclaration, kind: str) -> Any:
    """Return the value as the widget keeps it. A text area makes a text of whatever it is given."""
    if kind == "IMAGECOMPARE":
        return ["", ""]  # two addresses of pictures of an earlier run, which the editor forgets when it loads a file
    if kind == "COMBO" and value is None:
        return default_value(one, kind)
    if kind == "STRING" and one.options.get("multiline"):
        return "" if value is None else script_text(value)
    return value


def _read_named(values: Mapping[str, Any], inputs: Sequence[InputDeclaration], found: Widgets) -> None:
    for one in inputs:
        kind = widget_kind(one)
        if kind is not None:
            value = values.get(one.name, default_value(one, kind))
            found.values[one.name] = Widget(one.name, value, one)
            if kind == _DYNAMIC_COMBO:
                _read_named(values, list(_chosen(one, value)), found)


def _chosen(one: InputDeclaration, value: Any) -> Iterator[InputDeclaration]:
    for option in _options(one):
        if option.get("key") == value:
            yield from declared_inputs(option.get("inputs") or {}, f"{one.name}.").values()


def _without_forced(values: Sequence[Any], inputs: Sequence[InputDeclaration]) -> Sequence[Any]:
    """Drop the places that old versions saved for inputs with `forceInput`, if the count says that they are there."""
    forced: list[bool] = []
    for one in inputs:
        is_forced = bool(one.options.get("forceInput"))
        if is_forced or widget_kind(one) is not None:
            forced += [is_forced, False] if one.options.get(CONTROL) else [is_forced]
    if not any(forced) or len(forced) != len(values):
        return values
    return [value for value, drop in zip(values, forced, strict=True) if not drop]


def _slot_names(one: InputDeclaration, saved: Mapping[str, Slot], found: Widgets) -> Iterator[str]:
    if one.kind in (_AUTOGROW, _GROUP):
        grown = [name for name in saved if name.startswith(f"{one.name}.")]
        if "." in one.name:
            linked = sum(saved[name].link is not None for name in grown)
            found.nested_links = max(found.nested_links, linked)
        yield from grown
        return
    if not one.options.get("socketless"):
        yield one.name
    if one.kind == _DYNAMIC_COMBO and one.name in found.values:
        for part in _chosen(one, found.values[one.name].value):
            yield from _slot_names(part, saved, found)
