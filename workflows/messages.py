"""ComfyUI's WebSocket messages as values. Sans-I/O: `decode_text` and `decode_binary` take what a socket gave.

Field names are ComfyUI's. A message of an unknown type becomes `Unknown`, never an error:
newer servers and custom nodes send more than is known here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Status:
    queue_remaining: int
    sid: str | None


@dataclass(frozen=True, slots=True)
class ExecutionStart:
    prompt_id: str


@dataclass(frozen=True, slots=True)
class ExecutionCached:
    prompt_id: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Executing:
    """`node` None is the end of the prompt, and the one sure sign that its history is complete."""

    prompt_id: str | None
    node: str | None
    display_node: str | None


@dataclass(frozen=True, slots=True)
class Progress:
    prompt_id: str | None
    node: str | None
    value: float
    max: float


@dataclass(frozen=True, slots=True)
class NodeProgress:
    node_id: str
    display_node_id: str
    state: str
    value: float
    max: float


@dataclass(frozen=True, slots=True)
class ProgressState:
    """A whole snapshot; expanded nodes have ids like "2.0.0.3"."""

    prompt_id: str
    nodes: tuple[NodeProgress, ...]


@dataclass(frozen=True, slots=True)
class Executed:
    prompt_id: str
    node: str
    display_node: str
    output: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ExecutionSuccess:
    prompt_id: str


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """`current_inputs` and `current_outputs` are left out on purpose: they leak values and can be huge."""

    prompt_id: str
    node_id: str
    node_type: str
    exception_type: str
    exception_message: str
    traceback: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExecutionInterrupted:
    prompt_id: str
    node_id: str
    node_type: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture from a binary frame. Event 1 carries no ids, event 4 does."""

    image_type: Literal["jpeg", "png"]
    data: bytes
    node_id: str | None = None
    prompt_id: str | None = None


@dataclass(frozen=True, slots=True)
class ProgressText:
    node_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Unknown:
    type: str
    data: Any


Message = (
    Status
    | ExecutionStart
    | ExecutionCached
    | Executing
    | Progress
    | ProgressState
    | Executed
    | ExecutionSuccess
    | ExecutionError
    | ExecutionInterrupted
    | Preview
    | ProgressText
    | Unknown
)
