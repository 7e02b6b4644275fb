"""Which values ComfyUI does not compare with the range or the choices that object_info shows.

A class may check inputs itself, in a function that names them as its parameters: ComfyUI then leaves these alone. What
else it leaves alone are choices in a tuple, choices that claim to contain everything, and up to some version those of
its newer API. Runs in ComfyUI's process.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

ALL = "*"
"""In the place of names: the class's function takes any."""
COMBO = "COMBO"


def unchecked_inputs(
    classes: Mapping[str, Any], check_of: Callable[[Any], Any], *, compares_new_combos: bool
) -> dict[str, list[str]]:
    """`check_of` gives the function by which a class checks its inputs, or None. Classes that fail are left out."""
    found: dict[str, list[str]] = {}
    for class_type, node_class in classes.items():
        try:
            found[class_type] = _unchecked(node_class, check_of(node_class), compares_new_combos=compares_new_combos)
        except Exception:  # noqa: S112  a pack's own code; ComfyUI's log says it, as object_info asks the same
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
    """How this ComfyUI finds a class's own check, and whether it compares the choices of its newer API."""
    import execution  # type: ignore[import-not-found]  # ComfyUI's own module

    internal: Any = getattr(execution, "_ComfyNodeInternal", None)
    override: Any = getattr(execution, "first_real_override", None)

    def check_of(node_class: Any) -> Any:
        if internal is not None and override is not None and issubclass(node_class, internal):
            return override(node_class, "validate_inputs")
        return getattr(node_class, "VALIDATE_INPUTS", None)

    return check_of, "Combo.io_type" in inspect.getsource(execution.validate_inputs)
