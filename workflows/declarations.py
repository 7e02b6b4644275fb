"""What a node class declares in ComfyUI's object_info: its inputs, its outputs, and whether it is an output node.

An input is `[kind]` or `[kind, options]`. `kind` is a type's name (`"INT"`, `"IMAGE"`, unions as `"INT,FLOAT"`), a list
of choices (the old form), or `"COMBO"` with the choices in `options["options"]` (the new one). Types that begin with
`COMFY_` are dynamic: such an input has parts of its own, sent as `<name>.<part>`.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

OPEN_INPUTS = "open_inputs"
UNCHECKED_INPUTS = "unchecked_inputs"
CHECKED_FILES = "checked_files"
ADDED_INSIDE = (OPEN_INPUTS, UNCHECKED_INPUTS, CHECKED_FILES)
"""What our part of the engine's process adds to a class in object_info."""
LONGEST_LIST = 20
"""ComfyUI's own bound: an error for a value that is not in a longer list leaves the list out."""
_ALL = "*"
_CUSTOM = "custom_nodes"
_DYNAMIC = "COMFY_"
_UPLOAD = "_upload"
_AUTOGROW = "COMFY_AUTOGROW"
_DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO"
_NEVER_LISTED = ("remote", "remote_combo")
_NUMBERS = ("INT", "FLOAT", "BOOLEAN")


@dataclass(frozen=True)
class InputDeclaration:
    """What is asked for each value of a graph is computed once: some combos list thousands of files."""

    name: str
    kind: Any
    options: Mapping[str, Any]
    required: bool

    @property
    def config(self) -> list[Any] | None:
        """As ComfyUI repeats it in its errors; None for a long list of choices, which would be repeated for each."""
        return None if len(self.choices or ()) > LONGEST_LIST else [self.kind, dict(self.options)]

    @property
    def is_combo(self) -> bool:
        return isinstance(self.kind, list) or self.kind == "COMBO"

    @property
    def choices(self) -> list[Any] | None:
        """What may be chosen; None if this is no combo, or one whose choices only the editor fetches."""
        if isinstance(self.kind, list):
            return self.kind
        if self.kind != "COMBO" or any(self.options.get(flag) for flag in _NEVER_LISTED):
            return None
        listed = self.options.get("options")
        return listed if isinstance(listed, list) else None

    @cached_property
    def extensions(self) -> frozenset[str]:
        """Of all choices, in lower case and with the dot; empty for a choice without one."""
        return frozenset(extension_of(choice) for choice in self.choices or ())

    def offers(self, value: Any) -> bool:
        """Whether this is one of the choices, as Python's `in` finds it in their list."""
        try:
            return value in self._plain_choices
        except TypeError:  # a list or an object, which no text or number equals
            return value in self._other_choices

    @cached_property
    def _plain_choices(self) -> frozenset[Any]:
        return frozenset(choice for choice in self.choices or () if isinstance(choice, Hashable))

    @cached_property
    def _other_choices(self) -> list[Any]:
        return [choice for choice in self.choices or () if not isinstance(choice, Hashable)]

    @property
    def uploads(self) -> str:
        """What the editor uploads for this combo of input files: image, video, audio or file; empty for any other."""
        return next(
            (flag.removesuffix(_UPLOAD) for flag, on in self.options.items() if flag.endswith(_UPLOAD) and on), ""
        )

    @property
    def formats(self) -> Mapping[str, Any]:
        """VideoHelperSuite's: what may be set beside each choice, undeclared. See `widgets`."""
        listed = self.options.get("formats")
        return listed if isinstance(listed, Mapping) else {}

    @property
    def is_number(self) -> bool:
        return self.kind in _NUMBERS

    @property
    def is_dynamic(self) -> bool:
        return isinstance(self.kind, str) and self.kind.startswith(_DYNAMIC)

    @property
    def is_dynamic_combo(self) -> bool:
        return isinstance(self.kind, str) and self.kind.startswith(_DYNAMIC_COMBO)

    def parts(self, given: Mapping[str, Any]) -> Iterator["InputDeclaration"]:
        """What the chosen option of a dynamic combo adds to its node, each called `<name>.<part>`; their parts, too."""
        if not self.is_dynamic_combo:
            return
        options = self.options.get("options")
        for option in options if isinstance(options, list) else ():
            if isinstance(option, Mapping) and option.get("key") == given.get(self.name):
                for part in _inputs(option.get("inputs") or {}, f"{self.name}.").values():
                    # ComfyUI puts a dynamic combo into what it validates only if it is given.
                    yield replace(part, required=False) if part.is_dynamic_combo else part
                    yield from part.parts(given)

    def is_missing(self, given: Mapping[str, Any]) -> bool:
        """Whether a node with these inputs lacks this one, its parts included. One that may have no parts never is."""
        if not self.required or self.name in given:
            return False
        if not self.is_dynamic:
            return not any(name.startswith(f"{self.name}.") for name in given)
        if self.kind.startswith(_AUTOGROW):
            least = (self.options.get("template") or {}).get("min", 0)
            return bool(least) and not any(name.startswith(f"{self.name}.") for name in given)
        return not self.options.get("hidden") and not any(name.startswith(f"{self.name}.") for name in given)


@dataclass(frozen=True)
class FileCheck:
    """What a class's own check of an input accepts, as a trial inside the engine's process has shown.

    A file or a folder that exists: in the input folder, or (`roots` is known then) by a path from the engine's working
    folder, where the first step must be one of `roots`. `urls` and `empty`: it accepts these too.
    """

    is_folder: bool
    roots: frozenset[str] | None
    urls: bool
    empty: bool


@dataclass(frozen=True)
class NodeDeclaration:
    """`outputs` are types, as strings or lists of choices; None where object_info does not say.

    `hidden` inputs are ComfyUI's own to fill: the prompt, the node's id, the keys of partner nodes. `open_inputs`: its
    INPUT_TYPES contains every name, so that ComfyUI gives it any literal, declared or not. No ComfyUI publishes that:
    our part of the engine's process finds it out, and False may mean that nobody did. As with `unchecked`, the inputs
    whose values ComfyUI does not compare with their range or choices, for the class checks them itself; None if nobody
    has found out, and `*` among them stands for all. `files`, by input: what the class lets name existing files alone.
    """

    inputs: Mapping[str, InputDeclaration]
    outputs: Sequence[Any] | None
    is_output: bool
    is_custom: bool
    hidden: frozenset[str] = frozenset()
    open_inputs: bool = False
    unchecked: frozenset[str] | None = None
    files: Mapping[str, FileCheck] = field(default_factory=dict)

    def compares(self, name: str) -> bool:
        """Whether ComfyUI compares a value with the range or the choices of this input. Custom nodes may check theirs
        themselves, so where nobody has found out, it is only believed of ComfyUI's own.
        """
        if self.unchecked is None:
            return not self.is_custom
        return name not in self.unchecked and _ALL not in self.unchecked

    def takes(self, name: str) -> bool:
        """Whether this is one of its inputs, or a part of a dynamic one."""
        if name in self.inputs:
            return True
        whole = self.inputs.get(name.split(".", 1)[0])
        return whole is not None and whole.is_dynamic

    def widgets(self, given: Mapping[str, Any]) -> dict[str, InputDeclaration]:
        """What the formats chosen by these inputs add, each as [name, kind, …], kind a number's or a list of choices.

        Free text is none: where VideoHelperSuite puts these values, it would be options of ffmpeg.
        """
        found: dict[str, InputDeclaration] = {}
        for combo in self._with_formats:
            chosen = unwrapped(given.get(combo.name))
            listed = combo.formats.get(chosen) if isinstance(chosen, str) else None
            for one in listed if isinstance(listed, list) else ():
                if isinstance(one, list) and len(one) > 1 and isinstance(one[0], str) and one[0] not in self.inputs:
                    widget = _input(one[0], one[1:], required=False)
                    if widget.is_number or isinstance(widget.kind, list):
                        found[widget.name] = widget
        return found

    @cached_property
    def _with_formats(self) -> list[InputDeclaration]:
        return [declared for declared in self.inputs.values() if declared.formats]


def extension_of(name: Any) -> str:
    """In lower case and with the dot; empty without one."""
    if not isinstance(name, str):
        return ""
    _, dot, extension = name.rpartition(".")
    return f".{extension.lower()}" if dot else ""


def unwrapped(value: Any) -> Any:
    """ComfyUI takes `{"__value__": x}` for x, which may then be a list."""
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


UNKNOWN = NodeDeclaration(inputs={}, outputs=None, is_output=False, is_custom=False)


def declared(described: Any) -> NodeDeclaration:
    """One class of object_info. What is not as documented above is left out: the engine will know."""
    if not isinstance(described, Mapping):
        return UNKNOWN
    groups = described.get("input")
    outputs = described.get("output")
    return NodeDeclaration(
        inputs=_inputs(groups) if isinstance(groups, Mapping) else {},
        outputs=outputs if isinstance(outputs, list) else None,
        is_output=described.get("output_node") is True,
        is_custom=str(described.get("python_module", "")).split(".")[0] == _CUSTOM,
        hidden=_hidden(groups) if isinstance(groups, Mapping) else frozenset(),
        open_inputs=described.get(OPEN_INPUTS) is True,
        unchecked=_names(described.get(UNCHECKED_INPUTS)),
        files=_files(described.get(CHECKED_FILES)),
    )


def _names(listed: Any) -> frozenset[str] | None:
    return frozenset(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else None


def _files(checked: Any) -> dict[str, FileCheck]:
    found = {}
    for name, about in (checked if isinstance(checked, Mapping) else {}).items():
        if isinstance(about, Mapping) and about.get("is") in ("file", "folder"):
            roots = None if about.get("below") == "input" else _names(about.get("roots")) or frozenset()
            is_folder, urls, empty = about["is"] == "folder", about.get("urls") is True, about.get("empty") is True
            found[name] = FileCheck(is_folder, roots, urls, empty)
    return found


def _hidden(groups: Mapping[str, Any]) -> frozenset[str]:
    """A class may name one of its ordinary inputs as well: that stays one."""
    members = groups.get("hidden")
    return frozenset(members if isinstance(members, Mapping) else ()) - _inputs(groups).keys()


def _inputs(groups: Mapping[str, Any], prefix: str = "") -> dict[str, InputDeclaration]:
    """ComfyUI lets a required input win over an optional one of the same name."""
    found: dict[str, InputDeclaration] = {}
    for group in ("required", "optional"):
        members = groups.get(group)
        for name, config in (members if isinstance(members, Mapping) else {}).items():
            if name not in found:
                found[name] = _input(f"{prefix}{name}", config, required=group == "required")
    return found


def _input(name: str, config: Any, *, required: bool) -> InputDeclaration:
    parts = config if isinstance(config, list) else [config]
    options = parts[1] if len(parts) > 1 and isinstance(parts[1], Mapping) else {}
    return InputDeclaration(name, parts[0] if parts else None, options, required)
