"""The memory that checking a graph takes, because the API checks many graphs at once."""

import tracemalloc
from collections.abc import Callable

from tests.bench.judging import chain, object_info
from workflows.catalogue import Catalogue
from workflows.graph import parse_graph

MIB = 1024 * 1024


def peak(work: Callable[[], object]) -> int:
    """Return the peak memory in bytes of a second run; the first run fills caches that stay."""
    work()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_graph_is_parsed_and_checked_in_little_memory() -> None:
    """Parsing or checking 500 nodes against 900 classes takes at most half a MiB, whether or not the graph is valid."""
    document, catalogue = chain("euler"), Catalogue(object_info())
    good, bad = parse_graph(document), parse_graph(chain("nothing of this name"))
    assert catalogue.check(bad).faults
    assert peak(lambda: parse_graph(document)) < MIB // 2
    assert peak(lambda: catalogue.check(good)) < MIB // 2
    assert peak(lambda: catalogue.check(bad)) < MIB // 2
