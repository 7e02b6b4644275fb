"""Growing inputs inside a dynamic combo, of which the editor loses links while it loads a file.

Frontend 1.58 builds these inputs twice: with the combo's first option, then with the saved one. A link may be lost or
arrive at another input. The shapes of nodes that are accepted here are those that kept every link when each class of
ComfyUI 0.33 was tried with one to four links, with and without saved inputs for its widgets.
"""

from collections.abc import Iterator, Mapping

from workflows.declarations import InputDeclaration, NodeDeclaration
from workflows.editor.document import EditorNode
from workflows.editor.widget_kinds import AUTOGROW, DYNAMIC_COMBO
from workflows.editor.widgets import Widgets, chosen_parts

LINKS_OF_ONE_GROUP = 2
"""Links that a growing input may keep if no other one of the node is linked."""
GROUPS_OF_ONE_LINK = 3
"""Growing inputs that keep their link if each has one."""


def refuse_lost_links(node: EditorNode, node_id: str, about: NodeDeclaration, widgets: Widgets) -> None:
    """Raise `NotConvertible` if the editor may lose links of a growing input of this node."""
    for combo in about.inputs.values():
        if combo.kind == DYNAMIC_COMBO and combo.name in widgets.values:
            links = dict(_links(node, combo, widgets))
            if links and not _keeps(node, combo, widgets.values[combo.name].value, links):
                raise node.refusal(
                    node_id,
                    f"the editor itself may lose or shift the links into {', '.join(sorted(links))}",
                    reason="growing input inside a dynamic combo",
                    hint="export the workflow in API format and check these inputs",
                )


def _links(node: EditorNode, combo: InputDeclaration, widgets: Widgets) -> Iterator[tuple[str, int]]:
    """Yield the growing inputs of the chosen option, those inside its own combos too, with their numbers of links."""
    for part in chosen_parts(combo, widgets.values[combo.name].value) or ():
        if part.kind == AUTOGROW:
            linked = sum(slot.link is not None and slot.name.startswith(f"{part.name}.") for slot in node.inputs)
            if linked:
                yield part.name, linked
        elif part.kind == DYNAMIC_COMBO and part.name in widgets.values:
            yield from _links(node, part, widgets)


def _keeps(node: EditorNode, combo: InputDeclaration, value: object, links: Mapping[str, int]) -> bool:
    """Report whether the editor certainly keeps these numbers of links into growing inputs of the chosen option."""
    first = next(iter(combo.option_parts), None)
    chosen, built = ({part.name: part for part in chosen_parts(combo, key) or ()} for key in (value, first))
    if any(name not in chosen for name in links):
        return False  # inside a combo of the option
    counts = list(links.values())
    slots = [slot for slot in node.inputs if slot.widget is not None]
    if any(slot.link is None for slot in slots):
        return counts == [1] and first == value
    if len(counts) > 1:
        return max(counts) == 1 and len(counts) <= GROUPS_OF_ONE_LINK and not slots
    name = next(iter(links))
    if name not in built:
        return counts == [1] and not slots
    places = list(chosen).index(name), list(built).index(name)
    if slots and places[0] < places[1]:
        return False
    if counts == [1]:
        return True
    if counts[0] > LINKS_OF_ONE_GROUP or any(slot.name.startswith(f"{combo.name}.") for slot in slots):
        return False
    return built[name] == chosen[name] or 0 not in places
