"""`Ranges`: a set of whole numbers, kept and written as ranges such as `0..3,5`.

A client sends such text in a header, so it is never expanded: a few characters can name a million numbers.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Self

_RANGE = re.compile(r"(\d{1,6})(?:\.\.(\d{1,6}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ranges:
    """`spans` are the first and last number of each range, ascending, with a gap before each."""

    spans: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        return ",".join(str(first) if first == last else f"{first}..{last}" for first, last in self.spans)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse what `str` wrote. Raises ValueError for any other text."""
        spans: list[tuple[int, int]] = []
        for part in text.split(",") if text else ():
            match = _RANGE.fullmatch(part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
            if last < first or (spans and first <= spans[-1][1] + 1):
                raise ValueError(f"{part[:20]!r} is not a range of outputs, or not in order")
            spans.append((first, last))
        return cls(tuple(spans))

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.spans)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.spans, number, key=_first)
        return at > 0 and number <= self.spans[at - 1][1]

    def with_number(self, number: int) -> "Ranges":
        """Return these numbers and this one, which joins the ranges next to it."""
        if number in self:
            return self
        start = end = bisect_right(self.spans, number, key=_first)
        first = last = number
        if start > 0 and self.spans[start - 1][1] == number - 1:
            start -= 1
            first = self.spans[start][0]
        if end < len(self.spans) and self.spans[end][0] == number + 1:
            last = self.spans[end][1]
            end += 1
        return Ranges((*self.spans[:start], (first, last), *self.spans[end:]))


NO_NUMBERS = Ranges()


def _first(span: tuple[int, int]) -> int:
    return span[0]
