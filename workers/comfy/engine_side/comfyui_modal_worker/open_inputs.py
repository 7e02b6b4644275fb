"""Finds the node classes that take inputs of any name: some packs declare a dict that contains every name.

ComfyUI gives a node a literal only where the node's INPUT_TYPES contains its name, and object_info cannot show such a
dict. Runs in ComfyUI's process.
"""

import uuid
from collections.abc import Mapping
from typing import Any


def open_inputs(classes: Mapping[str, Any]) -> dict[str, bool]:
    """Return by class whether it takes any input. Classes whose declaration fails are omitted."""
    name = f"comfyui_modal_{uuid.uuid4().hex}"
    found: dict[str, bool] = {}
    for class_type, node_class in classes.items():
        try:
            found[class_type] = _takes(node_class, name)
        except Exception:  # noqa: S112  a pack's own code; ComfyUI logs the same error for object_info
            continue
    return found


def _takes(node_class: Any, name: str) -> bool:
    """Whether a class takes an input of this name, tested as in ComfyUI's execution.py: by name, in each group.

    ComfyUI 0.33 also has a flag for classes of its new API.
    """
    if getattr(node_class, "ACCEPT_ALL_INPUTS", False) is True:
        return True
    groups = node_class.INPUT_TYPES()
    return any(group in groups and name in groups[group] for group in ("required", "optional", "hidden"))
