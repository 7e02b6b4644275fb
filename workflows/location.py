"""Where a fault is: an input of a node, and the two ways to tell it, ours and ComfyUI's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workflows.declarations import InputDeclaration
from workflows.errors import WorkflowError, pointer
from workflows.graph import Node

LONGEST_VALUE = 200
"""Characters of a value that an error repeats: it must not repeat a document."""


@dataclass(frozen=True, slots=True)
class Location:
    """An input of a node. `is_custom`: its class is not ComfyUI's own, and what it checks itself is not known."""

    node_id: str
    node: Node
    declared: InputDeclaration
    is_custom: bool

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
        """`engine` is ComfyUI's own type, message and details; `info` what it adds to the input's name."""
        about = {"input_name": self.declared.name, **info}
        return kind(
            problem,
            pointer=pointer(self.node_id, "inputs", self.declared.name),
            node_id=self.node_id,
            hint=hint,
            engine={"type": engine[0], "message": engine[1], "details": engine[2], "extra_info": about},
        )


def short(value: Any) -> Any:
    """The value as received, if it is not too long to repeat."""
    if isinstance(value, str):
        return clipped(value)
    return value if len(repr(value)) <= LONGEST_VALUE else clipped(repr(value))


def words(value: Any, how: Callable[[Any], str] = repr) -> str:
    return clipped(how(value))


def clipped(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
