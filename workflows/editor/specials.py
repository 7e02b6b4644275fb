"""What the editor's own code adds to some classes of ComfyUI, beyond their declarations."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from workflows.declarations import InputDeclaration, NodeDeclaration
from workflows.editor import viewer
from workflows.editor.document import EditorNode
from workflows.errors import NotConvertible

CUSTOM_COMBO = "CustomCombo"
_USE_EVERYWHERE = ("Anything Everywhere", "Seed Everywhere", "Prompts Everywhere", "Simple String")
_SAVED_BY_NAME = "VHS_"
_WITH_PICTURE = ("SaveGLB", "Preview3D")
_NEEDS_A_BROWSER = {
    "LOAD_3D": "the editor renders a 3D scene for this input and uploads it",
    "PREVIEW_3D": "the editor renders a 3D scene for this input",
    "CAMERA_INFO_STATE": "the editor shows a 3D camera for this input",
    "CAMERA_ANGLE_VIEW": "the editor shows a 3D camera for this input",
    "COMFY_BRANCH_INPUT_NAMES": "the editor lists the linked inputs for this input",
    "COMFY_BRANCH_SELECTOR": "the editor lists the linked inputs as the choices of this input",
    "COMFY_DYNAMICGROUP_V3": "the editor numbers the rows of this input while it loads them",
    "WEBCAM": "the editor takes a picture with the webcam for this input",
    "AUDIO_RECORD": "the editor records sound for this input",
}


def added_widgets(kind: str, values: Sequence[Any], choice: Any) -> list[tuple[str, Any]]:
    """Return the widgets that the editor adds after the declared ones.

    `values` are the saved values left for them, `choice` is the value of the first widget.
    """
    if kind in _WITH_PICTURE:
        return [("image", "")]
    if kind != CUSTOM_COMBO:
        return []
    # A place for the chosen option's index, which is counted again, then one for each option. The first empty one is
    # the last, for the next option.
    options = [*takewhile(lambda option: option != "", values[1:]), ""]
    named = [(f"option{number}", option) for number, option in enumerate(options, start=1)]
    return [("index", options.index(choice) if choice in options else -1), *named]


def refuse_browser_input(node: EditorNode, node_id: str, about: NodeDeclaration) -> None:
    """Raise `NotConvertible` if an input's value exists only while the editor is open."""
    for one in about.inputs.values():
        if node.kind in viewer.CLASSES and one.name == viewer.INPUT:
            continue
        is_fetched = any(one.options.get(flag) for flag in ("remote", "remote_combo"))
        why = "the editor fetches the choices of this input" if is_fetched else _NEEDS_A_BROWSER.get(str(one.kind))
        if why is not None:
            raise NotConvertible(
                f"{node.label}: {why} (`{one.name}`), so its value is not in the file",
                reason=f"value made in the browser ({'remote' if is_fetched else one.kind})",
                pointer=node.pointer,
                node_id=node_id,
                hint="export the workflow in API format, or replace the node",
            )


def exported_view(node: EditorNode, node_id: str, widgets: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the view of a 3D preview or saver. `widgets` are the values of its widgets."""
    view = viewer.view(node.properties, widgets.get("width"), widgets.get("height"))
    if view is None:
        raise NotConvertible(
            f"{node.label}: its width, height and camera do not give a view",
            reason="3D view that cannot be calculated",
            pointer=node.pointer,
            node_id=node_id,
            hint="set width and height of the node to numbers above 0",
        )
    return view


def refuse_unknown_choice(node: EditorNode, node_id: str, one: InputDeclaration, value: Any) -> None:
    """Raise `NotConvertible` if links lead to parts of an option that the class does not declare.

    The editor removes the inputs of such an option, and the links into them may arrive at another input.
    """
    if any(slot.link is not None and slot.name.startswith(f"{one.name}.") for slot in node.inputs):
        raise NotConvertible(
            f"{node.label}: {unknown_choice(one, value)}, and inputs of this option are linked",
            reason="links into an unknown option",
            pointer=node.pointer,
            node_id=node_id,
            hint="install the version that the workflow was made with, or choose another option in the editor",
        )


def unknown_choice(one: InputDeclaration, value: Any) -> str:
    """Describe a value of a dynamic combo that is none of its options."""
    return f"`{one.name}` is set to {str(value)[:80]!r}, an option that the installed version does not have"


def missing_class(node: EditorNode, node_id: str) -> NotConvertible:
    """Return the error for a node whose class object_info lacks."""
    if node.kind.startswith(("workflow>", "workflow/")):
        reason, what = "group node", "is a group node, which newer editors have replaced by subgraphs"
        hint = "open and save the file in a current editor, which turns group nodes into subgraphs"
    elif node.kind.startswith(_USE_EVERYWHERE):
        reason, what = "Use Everywhere", "makes links by rules that only the Use Everywhere pack knows"
        hint = "in the editor convert these links to real ones (right click → Convert all UEs to real links)"
    else:
        reason, what = "class not installed", "is of a class that is not installed"
        hint = "install the custom node that provides it, or remove the node"
    return NotConvertible(f"{node.label} {what}", reason=reason, pointer=node.pointer, node_id=node_id, hint=hint)


def refuse_foreign_values(
    node: EditorNode, node_id: str, about: NodeDeclaration, spare: int, unread: Sequence[str]
) -> None:
    """Raise `NotConvertible` if a class has widgets that only its own JavaScript knows.

    A pack's JavaScript may add widgets. Then more values are saved than the class declares, and the positions cannot be
    trusted. With fewer values the last widgets have their defaults, as in the editor. Only VideoHelperSuite saves its
    values by name, so of it they can be.
    """
    problem = ""
    if isinstance(node.values, Mapping):
        # A name that nothing declares is of another version, whose values the pack's JavaScript translates.
        foreign = [name for name in unread if name != "videopreview" and not name.startswith("choose ")]
        if node.values and not node.kind.startswith(_SAVED_BY_NAME):
            problem = "its values are saved by name"
        elif foreign:
            problem = f"it has a saved value for `{foreign[0][:80]}`, which the installed version does not declare"
    elif about.is_custom and node.values:
        # The button for uploads was saved as one more value.
        uploads = any(one.uploads for one in about.inputs.values())
        if spare > 0 and not (uploads and spare == 1):
            problem = f"it has {len(node.values)} saved values, and the class declares {len(node.values) - spare}"
    if problem:
        raise NotConvertible(
            f"{node.label}: {problem}, so they cannot be assigned to its inputs without the pack's JavaScript",
            reason="values that only the pack's JavaScript can read",
            pointer=node.pointer,
            node_id=node_id,
            hint="save the file again with the versions that are installed here, or export it in API format",
        )
