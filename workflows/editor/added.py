"""What the editor's own code adds to some classes of ComfyUI, beyond their declarations."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

_CUSTOM_COMBO = "CustomCombo"
_WITH_PICTURE = ("SaveGLB", "Preview3D")


def added_widgets(kind: str, values: Sequence[Any], choice: Any) -> list[tuple[str, Any]]:
    """Return the widgets that the editor adds after the declared ones.

    `values` are the saved values left for them, `choice` is the value of the first widget.
    """
    if kind in _WITH_PICTURE:
        return [("image", "")]
    if kind != _CUSTOM_COMBO:
        return []
    # A place for the chosen option's index, which is counted again, then one for each option. The first empty one is
    # the last, for the next option.
    options = [*takewhile(lambda option: option != "", values[1:]), ""]
    named = [(f"option{number}", option) for number, option in enumerate(options, start=1)]
    return [("index", options.index(choice) if choice in options else -1), *named]
