"""Stricter rules for strangers' graphs: inputs that could lead a node out of the job are refused, and none is removed.

ComfyUI joins a loader's value to its input folder, passes a node every linked input under any name, and passes some
classes every literal as well. A node's function may then do what its author never intended: VideoHelperSuite puts
inputs that are named like an option of its formats into ffmpeg's command line. So

- a file name must stay in the job's folders (`workflows.file_names`), and must not come from a link that carries text;
- an option of a format is one of its choices, or a number;
- the only undeclared inputs are parts of dynamic inputs, options of the chosen format, further members of a declared
  row (`image_3`), links that carry a picture, a model or the like, inputs that the classes below are known to collect,
  inputs that the editor writes for itself, and literals that ComfyUI does not pass on.

Every node is checked, including those that ComfyUI would not validate, since it executes more than it validates. Rules
that need declarations skip unknown classes; the worker, which knows its engine's classes, applies the rules again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from workflows.catalogue import Catalogue
from workflows.check_values import check_listed
from workflows.declarations import UNKNOWN, InputDeclaration, NodeDeclaration, row_of
from workflows.errors import UndeclaredInput, UnsafeFileName, ValueNotInList, WorkflowError, WrongInputType, pointer
from workflows.file_names import check_file_names, fault_of_value, is_loader, names_a_file
from workflows.graph import Graph, Link, Node, as_link
from workflows.location import Location
from workflows.model_files import Listing, listing

ALLOWED_BY = "for graphs of your own team, COMFYUI_MODAL_GRAPHS=own allows it, or a key of `keys create --graphs own`"

COLLECTORS: Mapping[str, str] = {
    "Any Switch (rgthree)": "any_*",
    "Power Lora Loader (rgthree)": "lora_*",
}
"""Classes that collect a row of undeclared inputs, with the pattern of their names."""
CARGO = frozenset(
    (
        *("AUDIO", "CLIP", "CLIP_VISION", "CLIP_VISION_OUTPUT", "CONDITIONING", "CONTROL_NET", "GUIDER", "IMAGE"),
        *("LATENT", "MASK", "MODEL", "NOISE", "SAMPLER", "SIGMAS", "UPSCALE_MODEL", "VAE", "VIDEO"),
    )
)
"""Types that no node treats as text."""
EDITORS_OWN = frozenset(
    (
        "audioUI",  # the player of LoadAudio
        "videopreview",  # VideoHelperSuite's player
        "upload",
        "image_upload",
        "choose file to upload",
        "choose video to upload",
        "choose folder to upload",
        "control_after_generate",
    )
)
"""Undeclared inputs for the editor's buttons and players, which no node reads."""
_ENGINES_OWN = "override_display_id"
"""The member of a node under whose id ComfyUI reports the node's outputs."""
_NEVER = "manual_format_widgets"
"""VideoHelperSuite's former input for options of ffmpeg. It takes a dictionary, as which a LATENT or AUDIO passes."""
_NUMBERS = frozenset({"INT", "FLOAT", "BOOLEAN"})
_KNOWN_VALUES = _NUMBERS | {"STRING", "COMBO", "*"}
_MAY_BE_TEXT = ("STRING", "COMBO", "*", "COMFY_MATCHTYPE")
_LOADED = frozenset({"audio", "image", "latent", "mask", "video"})
_RECORDED = frozenset({"WEBCAM", "AUDIO_RECORD"})
"""Inputs that the browser photographs or records. ComfyUI reads their files as LoadImage and LoadAudio do."""


def check(graph: Graph, catalogue: Catalogue) -> None:
    """Raise the first fault. Its hint names the settings that allow the graph."""
    try:
        check_file_names(graph, EDITORS_OWN)
        for fault in _faults(graph, catalogue):
            raise fault
    except WorkflowError as fault:
        fault.add_hint(ALLOWED_BY)
        raise


def _faults(graph: Graph, catalogue: Catalogue) -> Iterator[WorkflowError]:
    for node_id, node in graph.nodes.items():
        if _ENGINES_OWN in node.rest:
            problem = f"node {node_id} has {_ENGINES_OWN}, which only ComfyUI may set"
            yield UndeclaredInput(problem, pointer=pointer(node_id, _ENGINES_OWN), node_id=node_id, hint="remove it")
        about = catalogue.declaration(node.class_type)
        if about is not UNKNOWN:
            yield from _Inspection(node_id, node, about, graph, catalogue).faults()


@dataclass(frozen=True, slots=True)
class _Inspection:
    """Checks one node of the graph, whose class declares `about`."""

    node_id: str
    node: Node
    about: NodeDeclaration
    graph: Graph
    catalogue: Catalogue

    def faults(self) -> Iterator[WorkflowError]:
        widgets = self.about.widgets(self.node.inputs)
        for name, value in self.node.inputs.items():
            declared = self.about.inputs.get(name)
            if name in widgets:
                fault = self._of_option(widgets[name], value, is_declared=False)
            elif declared is None:
                fault = None if self._may_be_given(name, value) else self._undeclared(name)
            elif declared.formats:
                fault = self._of_option(declared, value, is_declared=True)
            else:
                fault = self._of_file(declared, value)
            if fault is not None:
                yield fault

    def _of_option(self, declared: InputDeclaration, value: Any, *, is_declared: bool) -> WorkflowError | None:
        """Check a format or one of its options, which become a file's name and options of ffmpeg."""
        # ComfyUI converts and unwraps declared inputs only, so an undeclared option must have its final type already.
        location = Location(self.node_id, self.node, declared, self.about)
        link = as_link(value)
        if link is not None or isinstance(value, list):
            if declared.is_number and link is not None and self._kinds(link) <= _NUMBERS:
                return None
            problem = f"{location.words} cannot be linked here: it must be one of its choices"
        elif not is_declared and isinstance(value, dict | str) and (declared.is_number or isinstance(value, dict)):
            problem = f"{location.words} must be {'a number' if declared.is_number else 'one of its choices'}"
        else:
            return check_listed(location, value)
        kind = WrongInputType if declared.is_number else ValueNotInList
        return location.fault(kind, problem, ("value_not_in_list", "Value not in list", declared.name), "set a value")

    def _of_file(self, declared: InputDeclaration, value: Any) -> WorkflowError | None:
        link = as_link(value)
        if not _is_a_file(self.node, declared) and (link is not None or not _is_no_text(declared)):
            return None
        if link is None:
            problem = fault_of_value(value)
        elif any(kind.startswith(_MAY_BE_TEXT) for kind in self._kinds(link)):
            problem = "is linked, and which file a link names is not known before it runs"
        else:
            problem = None
        if problem is None:
            return None
        return UnsafeFileName(
            f"input {declared.name} of node {self.node_id} ({self.node.class_type}) {problem}",
            pointer=pointer(self.node_id, "inputs", declared.name),
            node_id=self.node_id,
            hint="set the file's name as a value" if link else "send the file in `media`, and name it as it is there",
        )

    def _may_be_given(self, name: str, value: Any) -> bool:
        """Report whether an undeclared input is harmless."""
        if self.about.takes(name):
            return True
        # First, because no exception below may let a graph set what only ComfyUI fills.
        if name in self.about.hidden or name == _NEVER:
            return False
        collected = COLLECTORS.get(self.node.class_type)
        if name in EDITORS_OWN or (collected is not None and fnmatchcase(name, collected)):
            return True
        link = as_link(value)
        if link is None and self.catalogue.drops_literals(self.about):
            return True
        return (link is not None and self._kinds(link) <= CARGO) or row_of(name) in self.about.rows

    def _undeclared(self, name: str) -> WorkflowError:
        what = "is ComfyUI's own to fill" if name in self.about.hidden else "is none that its class declares"
        return UndeclaredInput(
            f"input {name} of node {self.node_id} ({self.node.class_type}) {what}",
            pointer=pointer(self.node_id, "inputs", name),
            node_id=self.node_id,
            hint="remove it",
        )

    def _kinds(self, link: Link) -> frozenset[str]:
        """Return the types that the link may carry: `*` if they are not known, and for choices, which are text."""
        source = self.graph.nodes.get(link.node_id)
        outputs = None if source is None else self.catalogue.declaration(source.class_type).outputs
        known = outputs is not None and -len(outputs) <= link.slot < len(outputs)
        kind = outputs[link.slot] if outputs is not None and known else None
        return frozenset(one.strip() for one in kind.split(",")) if isinstance(kind, str) else frozenset({"*"})


def _is_no_text(declared: InputDeclaration) -> bool:
    """Report whether the type is unknown to ComfyUI, which then validates no literal of it."""
    # A literal there comes from a custom widget, or from a hand-written graph, and may be a file name.
    if declared.choices is not None or not isinstance(declared.kind, str) or declared.name in EDITORS_OWN:
        return False
    return not _KNOWN_VALUES & {kind.strip() for kind in declared.kind.split(",")}


def _is_a_file(node: Node, declared: InputDeclaration) -> bool:
    """Report whether an input that takes text names a file. Model names do not count."""
    choices = declared.choices
    if declared.uploads or (isinstance(declared.kind, str) and declared.kind in _RECORDED):
        return True
    if choices is not None:
        if listing(declared, "") is Listing.MODELS:
            return False  # ComfyUI looks model names up in its own lists, so they cannot leave the models' folders
        is_list_of_files = bool(choices) and listing(declared, "") is Listing.OTHER_FILES
    elif isinstance(declared.kind, str) and any(kind in declared.kind.split(",") for kind in ("STRING", "COMBO", "*")):
        is_list_of_files = False
    else:
        return False
    named = names_a_file(declared.name) or (is_loader(node.class_type) and declared.name in _LOADED)
    return is_list_of_files or named
