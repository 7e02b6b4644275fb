"""The lite engine's nodes: functions with ComfyUI's declaration of their inputs and outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

from PIL import Image

from workers.lite.folders import Folders
from workflows.catalogue import LITE_CATEGORY
from workflows.declarations import OPEN_INPUTS

Declared = Sequence[Any]
"""An input in object_info's form: `["INT", {"default": …}]`, or `[[choice, …], {…}]`."""


DYNAMIC_COMBO, MATCH_TYPE = "COMFY_DYNAMICCOMBO_V3", "COMFY_MATCHTYPE_V3"


class Interrupted(Exception):
    """The prompt was interrupted; raised when a node reports progress or checks for it."""


class OutOfMemoryError(Exception):
    """Replaces torch's error of this name; the fault nodes raise it."""


class Running(Protocol):
    """The part of the running prompt that a node may use."""

    folders: Folders
    node_id: str
    metadata: Mapping[str, Any]
    """The JSON text chunks of a PNG; empty with --disable-metadata."""

    def progress(self, value: int, maximum: int, preview: Image.Image | None = None, kind: str = "JPEG") -> None:
        """Report a step. `kind`, JPEG or PNG, is the preview's format. Raises `Interrupted`."""
        ...


@dataclass(frozen=True, slots=True)
class Result:
    """A node's output values, and its `ui` payload."""

    values: Sequence[Any] = ()
    ui: Mapping[str, Any] | None = None


Execute = Callable[..., Result]
Check = Callable[[Folders, Mapping[str, Any]], str | None]
Fingerprint = Callable[[Folders, Mapping[str, Any]], str]


@dataclass(frozen=True, slots=True)
class NodeClass:
    """`check` returns ComfyUI's error message for the values. `fingerprint` changes with inputs that are not in the
    prompt, such as a file's content. `open_inputs`: the node gets values of any name."""

    name: str
    execute: Execute
    required: Mapping[str, Declared]
    optional: Mapping[str, Declared] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    is_output: bool = False
    category: str = LITE_CATEGORY
    check: tuple[str, Check] | None = None
    fingerprint: Fingerprint | None = None
    open_inputs: bool = False

    def inputs(self) -> dict[str, Declared]:
        return {**self.required, **self.optional}

    def parts(self, given: Mapping[str, Any]) -> dict[str, Declared]:
        """Return the inputs `<name>.<part>` that the chosen options of dynamic combos add."""
        found: dict[str, Declared] = {}
        for name, (kind, options) in ((name, config) for name, config in self.inputs().items() if len(config) > 1):
            for option in options["options"] if kind == DYNAMIC_COMBO else ():
                if option["key"] == given.get(name):
                    found |= {f"{name}.{part}": config for part, config in option["inputs"]["required"].items()}
        return found

    def object_info(self) -> dict[str, Any]:
        required, optional = (dict(group) for group in (self.required, self.optional))
        order = {name: list(group) for name, group in (("required", required), ("optional", optional)) if group}
        groups = {name: group for name, group in (("required", required), ("optional", optional)) if group}
        return {
            "input": groups or {"required": {}},
            "input_order": order or {"required": []},
            "is_input_list": False,
            "output": list(self.outputs),
            "output_is_list": [False] * len(self.outputs),
            "output_name": list(self.outputs),
            "name": self.name,
            "display_name": self.name,
            "description": "",
            "python_module": "custom_nodes.lite" if self.open_inputs else "nodes",
            "category": self.category,
            "output_node": self.is_output,
            **({OPEN_INPUTS: True} if self.open_inputs else {}),
        }


def integer(default: int, low: int, high: int) -> Declared:
    return ["INT", {"default": default, "min": low, "max": high, "step": 1}]


def number(default: float, low: float, high: float, step: float = 0.01) -> Declared:
    return ["FLOAT", {"default": default, "min": low, "max": high, "step": step}]


def text(default: str = "") -> Declared:
    return ["STRING", {"default": default}]


def choice(*options: str, default: str | None = None) -> Declared:
    return [list(options), {"default": default} if default else {}]


def dynamic(options: Mapping[str, Mapping[str, Declared]]) -> Declared:
    """Declare a combo whose options, by name, each add inputs of their own."""
    listed = [{"key": key, "inputs": {"required": dict(parts)}} for key, parts in options.items()]
    return [DYNAMIC_COMBO, {"options": listed}]


def link(kind: str) -> Declared:
    return [kind, {}]


def is_link(value: object) -> TypeGuard[list[Any]]:
    """Whether a prompt's input is `[node id, output]`."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)
    )
