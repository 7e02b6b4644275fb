"""Graphs for tests: the shipped ones, and what a catalogue says of one."""

import copy
from typing import Any

from workflows.catalogue import Catalogue
from workflows.graph import Graph
from workflows.library import shipped


def example(name: str) -> dict[str, Any]:
    """A shipped workflow in API format, to be changed at will."""
    return copy.deepcopy(dict(shipped()[name].graph))


def check(catalogue: Catalogue, graph: Graph) -> None:
    """Raises the first fault."""
    for fault in catalogue.judge(graph).faults:
        raise fault
