"""One figure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """`aim` is what the project promises, where it promises something."""

    name: str
    value: str
    aim: str = ""
