"""Checks a node against the declaration of its class."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from workflows.check_links import check_link
from workflows.check_values import check_value
from workflows.declarations import InputDeclaration, NodeDeclaration
from workflows.errors import MissingRequiredInput, WorkflowError
from workflows.graph import Graph
from workflows.input_files import Files
from workflows.location import Location


@dataclass(frozen=True, slots=True)
class NodeCheck:
    """Checks the nodes of one graph. `class_of` returns a class's declaration by name."""

    graph: Graph
    class_of: Callable[[str], NodeDeclaration]
    files: Files

    def faults(self, node_id: str) -> Iterator[WorkflowError]:
        """Yield the faults in the order of the declared inputs, followed by the parts of dynamic inputs."""
        node = self.graph.nodes[node_id]
        about = self.class_of(node.class_type)
        known = dict(about.inputs)
        for wanted in about.inputs.values():
            known |= {part.name: part for part in wanted.parts(node.inputs)}
        # Parts of other dynamic inputs are not declared one by one: only a link to them can be checked.
        for name, value in node.inputs.items():
            if name not in known and isinstance(value, list) and about.takes(name):
                known[name] = InputDeclaration(name, "*", {}, required=False)
        for wanted in known.values():
            fault = self._check(Location(node_id, node, wanted, about))
            if fault is not None:
                yield fault

    def _check(self, location: Location) -> WorkflowError | None:
        given = location.node.inputs
        name = location.declared.name
        if name not in given:
            return _missing(location) if location.declared.is_missing(given) else None
        value = given[name]
        if not isinstance(value, list):  # ComfyUI takes every list for a link
            return check_value(location, value, self.files)
        return check_link(location, value, self.graph, self.class_of)


def _missing(location: Location) -> WorkflowError:
    name = location.declared.name
    problem = f"node {location.node_id} ({location.node.class_type}) lacks its required input {name}"
    part = name if name in location.about.inputs else name.rpartition(".")[2]  # ComfyUI's message has no prefix
    said = ("required_input_missing", "Required input is missing", part)
    return location.fault(MissingRequiredInput, problem, said, f"set {name}, or link it")
