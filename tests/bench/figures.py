"""The results of a bench as a table of docs/explanation/performance.md."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` are as long as `columns`. `notes` are sentences on how the rows were measured or why one is missing."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        lines = [_row(self.columns), _row(["---"] * len(self.columns)), *map(_row, self.rows)]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])


class Figure(NamedTuple):
    """A measured value; `aim` is the project's target, if there is one."""

    name: str
    value: str
    aim: str = ""


def figures(rows: Sequence[Figure], *notes: str) -> Table:
    return Table(("figure", "value", "aim"), rows, notes)


def placed(page: str, name: str, text: str) -> str:
    """Return the page with this text between its markers `<!-- name -->` and `<!-- /name -->`; KeyError without
    them."""
    pattern = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(page):
        raise KeyError(name)
    return pattern.sub(lambda _: f"\n{text}\n\n", page)


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile, interpolated linearly; `percent` is from 1 to 99."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
