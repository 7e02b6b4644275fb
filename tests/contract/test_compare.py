"""`make compare` from end to end, with the lite engine in place of ComfyUI."""

from pathlib import Path

import pytest

from tests.compare.comparison import Comparison, Options
from tests.compare.graphs import NamedGraph
from tests.compare.table import BOTH_ACCEPT, BOTH_REFUSE, EQUAL, OUTPUTS
from tests.support.graphs import EMPTY, node, saved

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_both_sides_check_and_run_graphs(tmp_path: Path) -> None:
    """A good graph with its own file gives the same outputs on both sides, and a bad graph is refused by both."""
    loaded = {"1": node("LoadImage", image="a.png"), "2": saved()}
    comparison = Comparison(Options(base=tmp_path / "base"))
    compared = await comparison.run([NamedGraph("good", loaded), NamedGraph("bad", {"1": EMPTY, "2": saved("7")})])
    good, bad = ([row for row, _ in graph.rows()] for graph in compared)
    assert good[0] == BOTH_ACCEPT
    assert good[-2:] == [OUTPUTS, EQUAL], compared[0].differences
    assert bad[0] == BOTH_REFUSE
