"""Finds what object_info does not show of a class's inputs. Runs in ComfyUI's process.

- Which classes take inputs of any name: ComfyUI gives a node a literal only where the node's INPUT_TYPES contains its
  name, and some packs declare a dict that contains every name.
- Which values ComfyUI does not compare with the declared range or choices. A class may check inputs itself, in a
  function with these inputs as parameters. ComfyUI also does not check choices in a tuple, choices whose `in` accepts
  every value, and up to some version those of its newer API.
"""

import inspect
import uuid
from collections.abc import Callable, Mapping
from typing import Any

ALL = "*"
"""Replaces the names if the class's function takes any input."""
COMBO = "COMBO"


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


def unchecked_inputs(
    classes: Mapping[str, Any], check_of: Callable[[Any], Any], *, compares_new_combos: bool
) -> dict[str, list[str]]:
    """Return the unchecked inputs by class; classes that fail are omitted.

    `check_of` returns the function with which a class checks its inputs, or None.
    """
    found: dict[str, list[str]] = {}
    for class_type, node_class in classes.items():
        try:
            found[class_type] = _unchecked(node_class, check_of(node_class), compares_new_combos=compares_new_combos)
        except Exception:  # noqa: S112  a pack's own code; ComfyUI logs the same error for object_info
            continue
    return found


def _unchecked(node_class: Any, check: Any, *, compares_new_combos: bool) -> list[str]:
    taken = inspect.getfullargspec(check) if check is not None else None
    if taken is not None and taken.varkw is not None:
        return [ALL]
    names = set(taken.args) if taken is not None else set()
    groups = node_class.INPUT_TYPES()
    for group in ("required", "optional"):
        for name, declared in groups.get(group, {}).items():
            if name in names or not _compares(declared[0], compares_new_combos=compares_new_combos):
                names.add(name)
    return sorted(names - {"cls", "self"})


def _compares(kind: Any, *, compares_new_combos: bool) -> bool:
    if isinstance(kind, list):
        return type(kind).__contains__ is list.__contains__
    return not isinstance(kind, tuple) and (compares_new_combos or kind != COMBO)


def checks_of_comfyui() -> tuple[Callable[[Any], Any], bool]:
    """Return how this ComfyUI finds a class's check, and whether it compares the choices of its newer API."""
    import execution  # type: ignore[import-not-found]  # ComfyUI's own module

    internal: Any = getattr(execution, "_ComfyNodeInternal", None)
    override: Any = getattr(execution, "first_real_override", None)

    def check_of(node_class: Any) -> Any:
        if internal is not None and override is not None and issubclass(node_class, internal):
            return override(node_class, "validate_inputs")
        return getattr(node_class, "VALIDATE_INPUTS", None)

    return check_of, "Combo.io_type" in inspect.getsource(execution.validate_inputs)
