"""The location of a fault: an input of a node, described in our words and in ComfyUI's."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from workflows.declarations import InputDeclaration, NodeDeclaration
from workflows.errors import WorkflowError, pointer
from workflows.graph import Node

LONGEST_VALUE = 200
"""Characters of a value that an error repeats, so that an error cannot repeat a whole document."""
_END = object()


@dataclass(frozen=True, slots=True)
class Location:
    """An input of a node of the class `about`."""

    node_id: str
    node: Node
    declared: InputDeclaration
    about: NodeDeclaration

    @property
    def is_custom(self) -> bool:
        """Whether the class belongs to a custom node."""
        return self.about.is_custom

    @property
    def is_compared(self) -> bool:
        """Whether ComfyUI compares the value with the input's range or choices."""
        return self.about.compares(self.declared.name)

    @property
    def is_left_to_class(self) -> bool:
        """Whether only the custom class itself may check the value."""
        return self.is_custom and self.about.unchecked is not None and not self.is_compared

    @property
    def words(self) -> str:
        return f"input {self.declared.name} of node {self.node_id} ({self.node.class_type})"

    def fault(
        self,
        kind: type[WorkflowError],
        problem: str,
        engine: tuple[str, str, str],
        hint: str | Callable[[], str] = "",
        **info: Any,
    ) -> WorkflowError:
        """Build an error. `engine` is ComfyUI's type, message and details; `info` is added to its extra_info."""
        about = {"input_name": self.declared.name, **info}
        return kind(
            problem,
            pointer=pointer(self.node_id, "inputs", self.declared.name),
            node_id=self.node_id,
            hint=hint,
            engine={"type": engine[0], "message": engine[1], "details": engine[2], "extra_info": about},
        )


def short(value: Any) -> Any:
    """Return the value, or a clipped text of a value that is too long to repeat or that JSON does not have."""
    if isinstance(value, str):
        return clipped(value)
    shown = words(value)
    is_endless = isinstance(value, float) and not math.isfinite(value)  # as the text "1e999" becomes
    return shown if is_endless or len(shown) > LONGEST_VALUE else value


def words(value: Any) -> str:
    """Return `repr(value)`, clipped."""
    return clipped(beginning(value, LONGEST_VALUE + 1))


def plain(value: Any) -> str:
    """Return `str(value)`, clipped."""
    return clipped(value) if isinstance(value, str) else words(value)


def clipped(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def beginning(value: Any, length: int) -> str:
    """Return the first `length` characters of `repr(value)`. Members of lists and objects behind them are not read."""
    # repr() of a large value is one call in C, which keeps the GIL for a second per 700,000 numbers.
    return first_characters(_pieces(value, length), length)


def first_characters(pieces: Iterable[str], length: int) -> str:
    """Return the first `length` characters of the joined pieces. Further pieces are not made."""
    found, missing = [], length
    for piece in pieces:
        found.append(piece)
        missing -= len(piece)
        if missing <= 0:
            break
    return "".join(found)[:length]


def _pieces(value: Any, length: int) -> Iterator[str]:
    """Yield `repr(value)` in pieces, each text in it cut to `length` characters."""
    # Of each list or object that is being written: its members with what stands before them, and its last character.
    waiting: list[tuple[Iterator[tuple[str, Any]], str]] = [(iter([("", value)]), "")]
    while waiting:
        members, end = waiting[-1]
        before, one = next(members, (end, _END))
        yield before
        if one is _END:
            waiting.pop()
        elif isinstance(one, list):
            yield "["
            waiting.append((_listed(one), "]"))
        elif isinstance(one, dict):
            yield "{"
            waiting.append((_named(one, length), "}"))
        else:
            yield repr(one[:length] if isinstance(one, str) else one)


def _listed(value: list[Any]) -> Iterator[tuple[str, Any]]:
    for position, member in enumerate(value):
        yield ", " if position else "", member


def _named(value: dict[str, Any], length: int) -> Iterator[tuple[str, Any]]:
    for position, (name, member) in enumerate(value.items()):
        yield f"{', ' if position else ''}{name[:length]!r}: ", member
