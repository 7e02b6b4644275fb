"""Refusals of nodes whose values or links only the editor, or the JavaScript of a pack, can know."""

from collections.abc import Mapping
from typing import Any

from workflows.declarations import InputDeclaration, NodeDeclaration
from workflows.editor import viewer
from workflows.editor.document import EditorNode
from workflows.editor.pack_widgets import IMAGE_COMPARER, POWER_LORA_LOADER, SCRIPTED, SEED, SHOW_TEXT
from workflows.editor.widgets import Widgets
from workflows.errors import NotConvertible
from workflows.location import plain

_USE_EVERYWHERE = ("Anything Everywhere", "Seed Everywhere", "Prompts Everywhere", "Simple String")
_SAVED_BY_NAME = "VHS_"
_WHOLE_OR_NOTHING = (POWER_LORA_LOADER, SEED, IMAGE_COMPARER, SHOW_TEXT)
_READ_AS_LISTS = ("VHS_LoadImages", "VHS_LoadImagesPath", "VHS_LoadVideo", "VHS_LoadVideoPath", "VHS_VideoCombine")
"""Classes whose pack gives the values of a list names of its own."""
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


def refuse_browser_input(node: EditorNode, node_id: str, about: NodeDeclaration) -> None:
    """Raise `NotConvertible` if an input's value exists only while the editor is open."""
    for one in about.inputs.values():
        if node.kind in viewer.CLASSES and one.name == viewer.INPUT:
            continue
        is_fetched = any(one.options.get(flag) for flag in ("remote", "remote_combo"))
        # A list of choices, which may have thousands, is no type with a name.
        named = one.kind if isinstance(one.kind, str) else ""
        why = "the editor fetches the choices of this input" if is_fetched else _NEEDS_A_BROWSER.get(named)
        if why is not None:
            raise node.refusal(
                node_id,
                f"{why} (`{one.name}`), so its value is not in the file",
                reason=f"value made in the browser ({'remote' if is_fetched else one.kind})",
                hint="export the workflow in API format, or replace the node",
            )


def exported_view(node: EditorNode, node_id: str, widgets: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the view of a 3D preview or saver. `widgets` are the values of its widgets."""
    view = viewer.view(node.properties, widgets.get("width"), widgets.get("height"))
    if view is None:
        raise node.refusal(
            node_id,
            "its width, height and camera do not give a view",
            reason="3D view that cannot be calculated",
            hint="set width and height of the node to numbers above 0",
        )
    return view


def refuse_unknown_choice(node: EditorNode, node_id: str, one: InputDeclaration, value: Any) -> None:
    """Raise `NotConvertible` if links lead to parts of an option that the class does not declare.

    The editor removes the inputs of such an option, and the links into them may arrive at another input.
    """
    if any(slot.link is not None and slot.name.startswith(f"{one.name}.") for slot in node.inputs):
        raise node.refusal(
            node_id,
            f"{unknown_choice(one, value)}, and inputs of this option are linked",
            reason="links into an unknown option",
            hint="install the version that the workflow was made with, or choose another option in the editor",
        )


def unknown_choice(one: InputDeclaration, value: Any) -> str:
    """Describe a value of a dynamic combo that is none of its options."""
    return f"`{one.name}` is set to {plain(value)[:80]!r}, an option that the installed version does not have"


def refuse_use_everywhere(node: EditorNode, node_id: str) -> None:
    """Raise `NotConvertible` for a node that makes links by rules, whether its class is installed or not."""
    if node.kind.startswith(_USE_EVERYWHERE):
        raise node.refusal(
            node_id,
            "it makes links by rules that only the Use Everywhere pack knows",
            reason="Use Everywhere",
            hint="in the editor convert these links to real ones (right click → Convert all UEs to real links)",
        )


def missing_class(node: EditorNode, node_id: str) -> NotConvertible:
    """Return the error for a node whose class object_info lacks."""
    if node.kind.startswith(("workflow>", "workflow/")):
        reason, what = "group node", "it is a group node, which newer editors have replaced by subgraphs"
        hint = "open and save the file in a current editor, which turns group nodes into subgraphs"
    else:
        reason, what = "class not installed", "it is of a class that is not installed"
        hint = "install the custom node that provides it, or remove the node"
    return node.refusal(node_id, what, reason=reason, hint=hint)


def refuse_foreign_values(node: EditorNode, node_id: str, about: NodeDeclaration, widgets: Widgets) -> None:
    """Raise `NotConvertible` if a class has widgets that only its own JavaScript knows.

    A pack's JavaScript may add widgets. Then more values are saved than the class declares, and the positions cannot be
    trusted. With fewer values the last widgets have their defaults, as in the editor. Only VideoHelperSuite saves its
    values by name, so of it they can be.
    """
    problem = "" if widgets.is_whole else _foreign(node, about, widgets)
    if problem:
        raise node.refusal(
            node_id,
            f"{problem}, so they cannot be assigned to its inputs without the pack's JavaScript",
            reason="values that only the pack's JavaScript can read",
            hint="save the file again with the versions that are installed here, or export it in API format",
        )


def _foreign(node: EditorNode, about: NodeDeclaration, widgets: Widgets) -> str:
    """Say what is wrong with the saved values, or return an empty text."""
    if node.kind in SCRIPTED or node.kind in _WHOLE_OR_NOTHING:
        return "its pack's JavaScript makes or fills in its values"
    if isinstance(node.values, Mapping):
        # A name that nothing declares is of another version, whose values the pack's JavaScript translates.
        foreign = [name for name in widgets.unread if name != "videopreview" and not name.startswith("choose ")]
        if node.values and not node.kind.startswith(_SAVED_BY_NAME):
            return "its values are saved by name"
        if foreign:
            return f"it has a saved value for `{foreign[0][:80]}`, which the installed version does not declare"
        if widgets.is_ambiguous and (node.kind in _READ_AS_LISTS or list(node.values) != list(widgets.values)):
            return "its values are saved by name, and their number lets the editor take them by position"
    elif node.kind in _READ_AS_LISTS and node.values:
        return "its values are saved by position, which its pack's JavaScript has changed"
    elif about.is_custom and node.values:
        # The button for uploads was saved as one more value.
        uploads = any(one.uploads for one in about.inputs.values())
        if widgets.spare > 0 and not (uploads and widgets.spare == 1):
            count = len(node.values)
            return f"it has {count} saved values, and the class declares {count - widgets.spare}"
    return ""
