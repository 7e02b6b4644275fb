"""The types of widgets that the editor itself has: their default values, their places in a file, and their export.

A type that is not in the table is an input that can only be linked, or a widget that a pack's own JavaScript adds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workflows.declarations import InputDeclaration
from workflows.editor.text import MOST_EXACT, script_number

ABSENT = object()
"""The value of a widget that has none: a combo without choices. It does not appear in the API graph."""
DYNAMIC_COMBO, AUTOGROW, GROUP = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3", "COMFY_DYNAMICGROUP_V3"
CURVE, IMAGE_COMPARE = "CURVE", "IMAGECOMPARE"
_STRAIGHT = {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"}
_BOX = {"x": 0, "y": 0, "width": 512, "height": 512}
_VIDEO_EDITS = {"trim": {"start_time": 0, "duration": 0}, "crop": {"x": 0, "y": 0, "width": 0, "height": 0}}


@dataclass(frozen=True, slots=True)
class WidgetKind:
    """What the editor does with one type of widget.

    `default` makes the value where the declaration has none. `followers` are the places that the saved values have
    after the widget's own, for parts of it that are not exported. `saved` is False if the widget has no place itself.
    """

    default: Callable[[InputDeclaration], Any]
    followers: int = 0
    saved: bool = True
    exported: bool = True
    is_text_area: bool = False


def _always(value: Any) -> Callable[[InputDeclaration], Any]:
    return lambda _: value


def _first_choice(one: InputDeclaration) -> Any:
    return next(iter(one.choices or ()), ABSENT)


def _first_option(one: InputDeclaration) -> Any:
    return next(iter(one.option_parts), ABSENT)


def _nested(name: str, fallback: Any) -> Callable[[InputDeclaration], Any]:
    """Return the default of a widget whose declaration has it by another name, perhaps inside `options`."""

    def default(one: InputDeclaration) -> Any:
        inside = one.options.get("options")
        found = one.options.get(name)
        if found is None and isinstance(inside, Mapping):
            found = inside.get(name)
        return fallback if found is None else found

    return default


def _video_edits(one: InputDeclaration) -> Any:
    features = one.options.get("features")
    return {name: edit for name, edit in _VIDEO_EDITS.items() if not isinstance(features, list) or name in features}


KINDS: Mapping[str, WidgetKind] = {
    "INT": WidgetKind(_always(0)),
    "FLOAT": WidgetKind(_always(0)),
    "STRING": WidgetKind(_always("")),
    "BOOLEAN": WidgetKind(_always(False)),
    "COMBO": WidgetKind(_first_choice),
    DYNAMIC_COMBO: WidgetKind(_first_option),
    "MARKDOWN": WidgetKind(_always(""), is_text_area=True),
    "TEXTAREA": WidgetKind(_nested("default", "")),
    "COLOR": WidgetKind(_nested("default", "#000000")),
    "COLORS": WidgetKind(_always([])),
    # Four numbers, each with a place, show the box in the editor.
    "BOUNDING_BOX": WidgetKind(_always(_BOX), followers=4),
    "BOUNDING_BOXES": WidgetKind(_always([])),
    CURVE: WidgetKind(_always(_STRAIGHT)),
    "RANGE": WidgetKind(_always({"min": 0, "max": 1})),
    "VIDEO_EDIT": WidgetKind(_video_edits),
    "CHART": WidgetKind(_nested("data", {})),
    "LIGHT_INFO_PREVIEW": WidgetKind(_always([])),
    "GALLERIA": WidgetKind(_nested("images", [])),
    "PAINTER": WidgetKind(_always(ABSENT)),
    "COMPOSITOR": WidgetKind(_always({})),
    # Two addresses of pictures of an earlier run, which the editor forgets when it loads a file.
    IMAGE_COMPARE: WidgetKind(_always(["", ""]), saved=False),
    "RESOLUTION_PREVIEW": WidgetKind(_always(None), saved=False, exported=False),
    "AUDIO_UI": WidgetKind(_always(""), saved=False, exported=False),
    # Filled in by `viewer`, or the node is refused.
    "LOAD_3D": WidgetKind(_always("")),
}


def widget_kind(one: InputDeclaration) -> str | None:
    """Return the type of the input's widget, or None for an input that can only be linked."""
    if one.options.get("forceInput"):
        return None
    if one.is_combo:
        return "COMBO"
    for kind in (one.options.get("widgetType"), one.kind):
        # A pack may have a widget of its own for a number or a text; its value is one all the same.
        if isinstance(kind, str) and kind in KINDS:
            return kind
    return None


def default_value(one: InputDeclaration, kind: str) -> Any:
    """Return the value of a widget for which nothing is saved."""
    if kind == "COMBO" and one.options.get("multi_select"):
        return []
    given = one.options.get("default")
    if kind == "COMBO" and given in (False, 0, ""):
        given = None  # as JavaScript takes these values
    # A dynamic combo and a comparison of pictures always begin anew.
    return KINDS[kind].default(one) if given is None or kind in (DYNAMIC_COMBO, IMAGE_COMPARE) else given


def exported(value: Any, kind: str) -> Any:
    """Return a widget's value as the editor writes it into the API graph."""
    if kind == CURVE and value is not None:
        return {"__type__": "CURVE", "__value__": value}
    return literal(value)


def literal(value: Any) -> Any:
    """Return a value as a literal. A list is wrapped, because ComfyUI would take it for a link."""
    if isinstance(value, int) and abs(value) > MOST_EXACT:
        return script_number(value)
    return {"__value__": value} if isinstance(value, list) else value
