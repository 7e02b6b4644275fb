"""The number of nodes of a file whose subgraphs are put in place."""

from typing import Any

import pytest

from tests.compare_editor.cases import OBJECT_INFO, cases
from workflows.catalogue import Catalogue
from workflows.editor import convert, placed_nodes
from workflows.errors import WorkflowError

CATALOGUE = Catalogue(OBJECT_INFO)


@pytest.mark.parametrize("document", dict(cases()).values(), ids=dict(cases()))
def test_no_more_nodes_are_counted_than_the_graph_has(document: dict[str, Any]) -> None:
    """The count never exceeds the nodes of the converted graph, so that no file is refused wrongly."""
    try:
        nodes = convert(document, CATALOGUE).workflow
    except WorkflowError:
        return
    assert placed_nodes(document) <= len(nodes)


def test_a_subgraph_inside_itself_is_counted_once() -> None:
    """A definition that contains itself, which no conversion takes, is counted without an end."""
    definition = {"id": "a", "nodes": [{"id": 1, "type": "a"}, {"id": 2, "type": "DemoInt"}], "links": []}
    document = {"nodes": [{"id": 1, "type": "a"}], "links": [], "definitions": {"subgraphs": [definition]}}
    assert placed_nodes(document) == 2
