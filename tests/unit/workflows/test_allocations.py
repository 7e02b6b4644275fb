"""How much memory a graph takes while it is checked: the API checks many at once."""

import tracemalloc
from collections.abc import Callable

from tests.bench.judging import chain, object_info
from workflows.catalogue import Catalogue
from workflows.graph import parse_graph

MIB = 1024 * 1024


def peak(work: Callable[[], object]) -> int:
    """In bytes, of a second run: the first fills caches that stay."""
    work()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_graph_is_parsed_and_judged_in_little_memory() -> None:
    """500 nodes against 900 classes: half a MiB for each, whether or not the graph fits, and no copy of the classes."""
    document, catalogue = chain("euler"), Catalogue(object_info())
    good, bad = parse_graph(document), parse_graph(chain("nothing of this name"))
    assert catalogue.check(bad).faults
    assert peak(lambda: parse_graph(document)) < MIB // 2
    assert peak(lambda: catalogue.check(good)) < MIB // 2
    assert peak(lambda: catalogue.check(bad)) < MIB // 2
