"""Whether a node fits what its class declares."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from workflows.declarations import InputDeclaration, NodeDeclaration
from workflows.errors import MissingRequiredInput, WorkflowError
from workflows.graph import Graph, Node
from workflows.judge_links import judge_link
from workflows.judge_values import Files, judge_value
from workflows.place import Place


@dataclass(frozen=True, slots=True)
class NodeJudge:
    """Of one graph. `class_of` gives the declaration of a class by its name."""

    graph: Graph
    class_of: Callable[[str], NodeDeclaration]
    files: Files

    def faults(self, node_id: str) -> Iterator[WorkflowError]:
        """In the order in which the class declares its inputs; then links that it does not declare."""
        node = self.graph.nodes[node_id]
        about = self.class_of(node.class_type)
        for wanted in about.inputs.values():
            fault = self._judge(Place(node_id, node, wanted, about.is_custom))
            if fault is not None:
                yield fault
        for name in node.links():
            if name not in about.inputs:
                # a part of a dynamic input, or one that the class does not declare: only the slot is known
                part = InputDeclaration(name, "*", {}, required=False)
                fault = self._judge(Place(node_id, node, part, about.is_custom))
                if fault is not None:
                    yield fault

    def _judge(self, place: Place) -> WorkflowError | None:
        given = place.node.inputs
        name = place.declared.name
        if name not in given:
            return _missing(place) if place.declared.is_missing(given) else None
        if isinstance(given[name], list):
            return judge_link(place, given[name], self.graph, self._source(place.node, name))
        return judge_value(place, given[name], self.files)

    def _source(self, node: Node, name: str) -> NodeDeclaration | None:
        link = node.links().get(name)
        return None if link is None else self.class_of(self.graph.nodes[link.node_id].class_type)


def _missing(place: Place) -> WorkflowError:
    name = place.declared.name
    problem = f"node {place.node_id} ({place.node.class_type}) lacks its required input {name}"
    said = ("required_input_missing", "Required input is missing", name)
    return place.fault(MissingRequiredInput, problem, said, f"set {name}, or link it")
