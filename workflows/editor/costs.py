"""How many steps it takes to read a node: those of its class, of its inputs and of its saved values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from workflows.declarations import InputDeclaration, NodeDeclaration
from workflows.editor.budget import COMPARED, steps_of
from workflows.editor.document import EditorGraph, EditorNode, Slot
from workflows.editor.widget_kinds import AUTOGROW, DYNAMIC_COMBO, GROUP

OF_AN_INPUT = 5
"""Steps of a declared input, which is read about as often before its value is known."""


@dataclass(frozen=True, slots=True)
class _OfClass:
    """The declared inputs of a class, with those of all options; `growing` are those that search the node's inputs."""

    inputs: int
    growing: int


class Costs:
    """The steps of the nodes of one document. A node of a subgraph definition is counted once and read many times."""

    def __init__(self) -> None:
        self._classes: dict[str, _OfClass] = {}
        self._nodes: dict[str, int] = {}
        self._instances: dict[str, int] = {}

    def of(self, node: EditorNode, about: NodeDeclaration) -> int:
        """Return the steps of reading a node of this class."""
        if node.pointer not in self._nodes:
            self._nodes[node.pointer] = self._counted(node, about)
        return self._nodes[node.pointer]

    def of_inputs(self, definition: EditorGraph) -> int:
        """Return the steps of reading the inputs of an instance of this subgraph, its node not included."""
        if definition.id not in self._instances:
            self._instances[definition.id] = len(definition.inputs) + _of_names(definition.inputs)
        return self._instances[definition.id]

    def _counted(self, node: EditorNode, about: NodeDeclaration) -> int:
        known = self._classes.get(node.kind)
        if known is None:
            declared = [one for whole in about.inputs.values() for one in _with_parts(whole)]
            growing = sum(one.kind in (AUTOGROW, GROUP, DYNAMIC_COMBO) for one in declared)
            known = self._classes[node.kind] = _OfClass(len(declared), growing)
        slots = len(node.inputs) * (1 + known.growing) + _of_names(node.inputs)
        return 1 + OF_AN_INPUT * known.inputs + slots + _of_values(node) + len(node.kind) // COMPARED


def _with_parts(one: InputDeclaration) -> Iterator[InputDeclaration]:
    yield one
    for parts in one.option_parts.values():
        for part in parts:
            yield from _with_parts(part)


def _of_names(slots: Sequence[Slot]) -> int:
    return sum(len(one.name) + len(one.kind) for one in slots) // COMPARED


def _of_values(node: EditorNode) -> int:
    """Return the steps of the node's values. A text at the top is at most compared, but one in a list may be copied."""
    values = node.values.values() if isinstance(node.values, Mapping) else node.values
    texts = sum(len(value) for value in values if isinstance(value, str))
    promoted = [node.properties.get(name) for name in ("proxyWidgets", "proxyWidgetErrorQuarantine")]
    inside = sum(steps_of(value) for value in [*values, *promoted] if isinstance(value, list | Mapping))
    return len(node.values) + texts // COMPARED + inside
