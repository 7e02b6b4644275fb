"""How many steps it takes to read a node: those of its class, of its inputs and of its saved values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workflows.declarations import InputDeclaration, NodeDeclaration, declared_inputs
from workflows.editor.budget import CHARACTERS, size_of
from workflows.editor.document import EditorNode
from workflows.editor.widget_kinds import AUTOGROW, DYNAMIC_COMBO, GROUP, options_of

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

    def of(self, node: EditorNode, about: NodeDeclaration) -> int:
        """Return the steps of reading a node of this class."""
        if node.pointer not in self._nodes:
            self._nodes[node.pointer] = self._counted(node, about)
        return self._nodes[node.pointer]

    def _counted(self, node: EditorNode, about: NodeDeclaration) -> int:
        known = self._classes.get(node.kind)
        if known is None:
            declared = [one for whole in about.inputs.values() for one in _with_parts(whole)]
            growing = sum(one.kind in (AUTOGROW, GROUP, DYNAMIC_COMBO) for one in declared)
            known = self._classes[node.kind] = _OfClass(len(declared), growing)
        return 1 + OF_AN_INPUT * known.inputs + len(node.inputs) * (1 + known.growing) + _of_values(node)


def _with_parts(one: InputDeclaration) -> Iterator[InputDeclaration]:
    yield one
    if one.kind == DYNAMIC_COMBO:
        for option in options_of(one):
            for part in declared_inputs(option.get("inputs") or {}).values():
                yield from _with_parts(part)


def _of_values(node: EditorNode) -> int:
    """Return the steps of the node's values. A text at the top is only handed on, but one in a list may be copied."""
    values = node.values.values() if isinstance(node.values, Mapping) else node.values
    inside = [value for value in values if not isinstance(value, str)]
    promoted: list[Any] = [node.properties.get(name) for name in ("proxyWidgets", "proxyWidgetErrorQuarantine")]
    return len(node.values) + size_of([inside, promoted]) // CHARACTERS
