"""Parses the declaration of a node class in ComfyUI's object_info: inputs, outputs, and whether it is an output node.

An input is `[kind]` or `[kind, options]`. `kind` is a type's name (`"INT"`, `"IMAGE"`, unions as `"INT,FLOAT"`), a list
of choices (the old form), or `"COMBO"` with the choices in `options["options"]` (the new form). Types that begin with
`COMFY_` are dynamic: such an input has parts of its own, sent as `<name>.<part>`.
"""

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

OPEN_INPUTS = "open_inputs"
UNCHECKED_INPUTS = "unchecked_inputs"
CHECKED_FILES = "checked_files"
ADDED_INSIDE = (OPEN_INPUTS, UNCHECKED_INPUTS, CHECKED_FILES)
"""The members that our code inside the engine's process adds to a class in object_info."""
LONGEST_LIST = 20
"""ComfyUI's bound: its error for an unlisted value omits a longer list of choices."""
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
    """A declared input. Lookups are cached on it, because some combos list thousands of files."""

    name: str
    kind: Any
    options: Mapping[str, Any]
    required: bool

    @property
    def config(self) -> list[Any] | None:
        """The input's config as ComfyUI's errors repeat it; None for a long list of choices."""
        # Left out so that a report does not repeat a list of thousands of choices with each fault.
        return None if len(self.choices or ()) > LONGEST_LIST else [self.kind, dict(self.options)]

    @property
    def is_combo(self) -> bool:
        return isinstance(self.kind, list) or self.kind == "COMBO"

    @property
    def choices(self) -> list[Any] | None:
        """The choices of a combo; None for any other input, and for a combo whose choices the editor fetches."""
        if isinstance(self.kind, list):
            return self.kind
        if self.kind != "COMBO" or any(self.options.get(flag) for flag in _NEVER_LISTED):
            return None
        listed = self.options.get("options")
        return listed if isinstance(listed, list) else None

    @cached_property
    def extensions(self) -> frozenset[str]:
        """The file extensions of all choices, in lower case with the dot; an empty text for a choice without one."""
        return frozenset(extension_of(choice) for choice in self.choices or ())

    def offers(self, value: Any) -> bool:
        """Report whether the value is one of the choices, as Python's `in` compares it."""
        try:
            return value in self._plain_choices
        except TypeError:  # an unhashable value, a list or an object, can only equal an unhashable choice
            return value in self._other_choices

    @cached_property
    def _plain_choices(self) -> frozenset[Any]:
        return frozenset(choice for choice in self.choices or () if isinstance(choice, Hashable))

    @cached_property
    def _other_choices(self) -> list[Any]:
        return [choice for choice in self.choices or () if not isinstance(choice, Hashable)]

    @property
    def uploads(self) -> str:
        """The kind of file that the editor uploads for this input: image, video, audio or file; empty if none."""
        return next(
            (flag.removesuffix(_UPLOAD) for flag, on in self.options.items() if flag.endswith(_UPLOAD) and on), ""
        )

    @property
    def formats(self) -> Mapping[str, Any]:
        """VideoHelperSuite's extra inputs for each choice, which the class does not declare. See `widgets`."""
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

    @cached_property
    def option_parts(self) -> Mapping[str, Sequence["InputDeclaration"]]:
        """The inputs that each option of a dynamic combo adds, named `<name>.<part>`, by the option's key in order."""
        listed = self.options.get("options") if self.is_dynamic_combo else None
        found: dict[str, list[InputDeclaration]] = {}
        for option in listed if isinstance(listed, list) else ():
            if isinstance(option, Mapping) and isinstance(key := option.get("key"), str):
                inputs = option.get("inputs")
                parts = declared_inputs(inputs if isinstance(inputs, Mapping) else {}, f"{self.name}.").values()
                # ComfyUI validates a nested dynamic combo only if it is given.
                found.setdefault(key, []).extend(
                    replace(part, required=False) if part.is_dynamic_combo else part for part in parts
                )
        return found

    @cached_property
    def longest_option(self) -> int:
        """Characters of the longest key of a dynamic combo's options."""
        return max(map(len, self.option_parts), default=0)

    def parts(self, given: Mapping[str, Any]) -> Iterator["InputDeclaration"]:
        """Yield the inputs that a dynamic combo's chosen option adds, and their own parts."""
        key = given.get(self.name)
        for part in self.option_parts.get(key, ()) if isinstance(key, str) else ():
            yield part
            yield from part.parts(given)

    def is_missing(self, given: Sequence[str]) -> bool:
        """Report whether a node without an input of this name lacks it. `given` are the node's inputs, sorted by name.

        The parts of the input, `<name>.<part>`, count as the input itself.
        """
        if not self.required or _has_part(f"{self.name}.", given):
            return False
        if not self.is_dynamic:
            return True
        if self.kind.startswith(_AUTOGROW):
            # An autogrow input with a minimum of 0 may have no parts, so it is never missing.
            return bool((self.options.get("template") or {}).get("min", 0))
        return not self.options.get("hidden")


def _has_part(prefix: str, given: Sequence[str]) -> bool:
    # A class may have hundreds of inputs, and a node may be given thousands.
    position = bisect_left(given, prefix)
    return position < len(given) and given[position].startswith(prefix)


@dataclass(frozen=True)
class FileCheck:
    """What a class's own validation of an input accepts, as found by trial inside the engine's process.

    It accepts an existing file or folder: in the input folder if `roots` is None, otherwise by a path from the engine's
    working folder whose first part is one of `roots`. `urls` and `empty` say whether it accepts these as well.
    """

    is_folder: bool
    roots: frozenset[str] | None
    urls: bool
    empty: bool


@dataclass(frozen=True)
class NodeDeclaration:
    """The declaration of a node class.

    `outputs` are types, as strings or lists of choices; None if object_info does not list them. ComfyUI itself fills
    the `hidden` inputs: the prompt, the node's id, the keys of partner nodes. `title` is the class's name for people.
    `input_order` has the inputs' names as the editor shows them, or is empty.

    ComfyUI does not publish the rest; our code inside the engine's process determines it. `open_inputs` says that the
    class's INPUT_TYPES contains every name, so ComfyUI passes it undeclared literals; False may also mean unknown.
    `unchecked` are the inputs that the class validates itself, whose range and choices ComfyUI therefore skips; `*`
    stands for all, and None means unknown. `files` are the inputs that accept only existing files.
    """

    inputs: Mapping[str, InputDeclaration]
    outputs: Sequence[Any] | None
    is_output: bool
    is_custom: bool
    hidden: frozenset[str] = frozenset()
    open_inputs: bool = False
    unchecked: frozenset[str] | None = None
    files: Mapping[str, FileCheck] = field(default_factory=dict)
    title: str = ""
    input_order: Sequence[str] = ()

    def compares(self, name: str) -> bool:
        """Report whether ComfyUI certainly compares a value with this input's range or choices."""
        if self.unchecked is None:
            # Unknown: a custom class may validate its inputs itself, and a job that would run must not be refused.
            return not self.is_custom
        return name not in self.unchecked and _ALL not in self.unchecked

    def takes(self, name: str) -> bool:
        """Report whether this names a declared input, or a part of a dynamic one."""
        if name in self.inputs:
            return True
        whole = self.inputs.get(name.split(".", 1)[0])
        return whole is not None and whole.is_dynamic

    def widgets(self, given: Mapping[str, Any]) -> dict[str, InputDeclaration]:
        """Return the inputs that the chosen formats add, from [name, kind, …]: numbers and lists of choices."""
        # Free text is excluded: VideoHelperSuite puts these values into ffmpeg's command line.
        found: dict[str, InputDeclaration] = {}
        for combo in self._with_formats:
            chosen = unwrapped(given.get(combo.name))
            # A graph may set any JSON value here, and an object or a list cannot be looked up.
            listed = combo.formats.get(chosen) if isinstance(chosen, str) else None
            for one in listed if isinstance(listed, list) else ():
                if isinstance(one, list) and len(one) > 1 and isinstance(one[0], str) and one[0] not in self.inputs:
                    widget = _input(one[0], one[1:], required=False)
                    if widget.is_number or isinstance(widget.kind, list):
                        found[widget.name] = widget
        return found

    @cached_property
    def rows(self) -> frozenset[str]:
        """The names of the declared inputs that end in a number, without it: `image_` for `image_3`."""
        return frozenset(stem for name in self.inputs if (stem := row_of(name)) is not None)

    @cached_property
    def _with_formats(self) -> list[InputDeclaration]:
        return [declared for declared in self.inputs.values() if declared.formats]


def row_of(name: str) -> str | None:
    """Return a name that ends in a number without it, or None for another name."""
    stem = name.rstrip("0123456789")
    return stem if stem and stem != name else None


def extension_of(name: Any) -> str:
    """Return the file extension in lower case with the dot, or an empty text."""
    if not isinstance(name, str):
        return ""
    _, dot, extension = name.rpartition(".")
    return f".{extension.lower()}" if dot else ""


def unwrapped(value: Any) -> Any:
    """Return x for `{"__value__": x}`, ComfyUI's way to write a literal list."""
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


UNKNOWN = NodeDeclaration(inputs={}, outputs=None, is_output=False, is_custom=False)


def declared(described: Any) -> NodeDeclaration:
    """Parse one class of object_info. Members of an unexpected form are ignored, since the engine validates as well."""
    if not isinstance(described, Mapping):
        return UNKNOWN
    groups = described.get("input")
    outputs = described.get("output")
    return NodeDeclaration(
        inputs=declared_inputs(groups) if isinstance(groups, Mapping) else {},
        outputs=outputs if isinstance(outputs, list) else None,
        is_output=described.get("output_node") is True,
        is_custom=str(described.get("python_module", "")).split(".")[0] == _CUSTOM,
        hidden=_hidden(groups) if isinstance(groups, Mapping) else frozenset(),
        open_inputs=described.get(OPEN_INPUTS) is True,
        unchecked=_names(described.get(UNCHECKED_INPUTS)),
        files=_files(described.get(CHECKED_FILES)),
        title=str(described.get("display_name") or described.get("name") or ""),
        input_order=_input_order(described.get("input_order")),
    )


def _input_order(listed: Any) -> list[str]:
    """Return the declared order of the inputs' names, or an empty list where object_info has none."""
    if not isinstance(listed, Mapping):
        return []
    groups = (listed.get(group) for group in ("required", "optional"))
    return [name for group in groups if isinstance(group, list) for name in group if isinstance(name, str)]


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
    """Return the names of the hidden inputs."""
    members = groups.get("hidden")
    # A class may list an ordinary input as hidden too; it stays an ordinary input.
    return frozenset(members if isinstance(members, Mapping) else ()) - declared_inputs(groups).keys()


def declared_inputs(groups: Mapping[str, Any], prefix: str = "") -> dict[str, InputDeclaration]:
    """Parse the required and optional inputs, each name with the prefix."""
    found: dict[str, InputDeclaration] = {}
    # In ComfyUI a required input takes precedence over an optional one of the same name.
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
