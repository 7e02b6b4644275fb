"""Decodes ComfyUI's WebSocket messages. Sans-I/O: `decode_text` and `decode_binary` take the frames of a socket.

Field names are ComfyUI's. A message of an unknown type becomes `Unknown` and never an error, because newer servers and
custom nodes send further types. Ids and names have a limit, since a job's record repeats them for each output.
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workflows import engine_json

LONGEST_ID = 512
"""Maximum characters of a node's id, including its place in an expanded subgraph. A graph's own ids have 256."""
LONGEST_NAME = 256
"""Maximum characters of a class or an exception's type; the rest is cut."""
LONGEST_EXCEPTION = 64 * 1024
MAX_FRAME_WEIGHT = 4 * 1024 * 1024
"""Maximum weight of the JSON in a frame. A heavier message becomes `Unknown`: history has what its nodes returned.
A progress snapshot of 200 nodes weighs 46 KB."""
MOST_STEPS = 1e9
"""Maximum of a progress value."""


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
    """A node starts. `node` None marks the end of the prompt, the only reliable sign that its history is complete.

    The end always names its prompt.
    """

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
    """A snapshot of all nodes. Nodes of an expanded subgraph have ids like "2.0.0.3"."""

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
    """A node raised. The traceback and the node's current inputs and outputs are dropped: they can be huge."""

    prompt_id: str
    node_id: str
    node_type: str
    exception_type: str
    exception_message: str


@dataclass(frozen=True, slots=True)
class ExecutionInterrupted:
    prompt_id: str
    node_id: str
    node_type: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A preview image from a binary frame. Event 4 carries ids, event 1 does not."""

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


def decode_text(frame: str | bytes) -> Message:
    """Decode a text frame: `{"type", "data"}`."""
    try:
        document = engine_json.parsed(frame, max_weight=MAX_FRAME_WEIGHT)
    except (ValueError, RecursionError):
        return Unknown("", None)
    if not isinstance(document, dict):
        return Unknown("", document)
    message = decode_pair(document.get("type"), document.get("data"))
    if isinstance(message, Executing) and message.node is None:
        # NaN is null by now. Only a null in the frame itself is the end of a prompt.
        exact = engine_json.parsed(frame, unfit=math.nan)
        return decode_pair(exact["type"], exact["data"])
    return message


def decode_pair(kind: object, data: object) -> Message:
    """Decode a message from its type and data, as in a frame or in a history entry."""
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is not None and isinstance(data, dict):
        try:
            return decoder(data)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            pass  # an unexpected form: a newer server, or a custom node's own message of this type
    return Unknown(str(kind), data)


def decode_binary(frame: bytes) -> Message:
    """Decode a binary frame: a big-endian u32 event, then the event's layout. A malformed frame becomes `Unknown`."""
    try:
        (event,) = struct.unpack_from(">I", frame)
        return _BINARY_DECODERS[event](frame[4:])
    # The metadata of a frame is JSON of any form and depth.
    except (struct.error, KeyError, ValueError, OverflowError, TypeError, AttributeError, RecursionError):
        return Unknown("binary", None)


def _status(data: dict[str, Any]) -> Message:
    return Status(int(data["status"]["exec_info"]["queue_remaining"]), data.get("sid"))


def is_id(value: object) -> bool:
    """Whether a value can be a node's id."""
    return isinstance(value, str | int) and len(str(value)) <= LONGEST_ID


def _id(value: object) -> str:
    if not is_id(value):
        raise ValueError("not an id of a node")
    return str(value)


def _id_or_none(value: object) -> str | None:
    return None if value is None else _id(value)


def _name(value: object) -> str:
    return str(value)[:LONGEST_NAME]


def _progress_state(data: dict[str, Any]) -> Message:
    nodes = tuple(
        NodeProgress(
            node_id=_id(node.get("node_id", node_id)),
            display_node_id=_id(node.get("display_node_id", node_id)),
            state=_name(node["state"]),
            value=_number(node.get("value")),
            max=_number(node.get("max")),
        )
        for node_id, node in data["nodes"].items()
    )
    return ProgressState(data["prompt_id"], nodes)


def _executed(data: dict[str, Any]) -> Message:
    output = data.get("output") or {}
    node = _id(data["node"])
    if not isinstance(output, dict):
        raise TypeError("output")
    return Executed(data["prompt_id"], node, _id(data.get("display_node") or node), output)


def _executing(data: dict[str, Any]) -> Message:
    prompt_id, node = data.get("prompt_id"), _id_or_none(data["node"])
    if node is None and not isinstance(prompt_id, str):
        raise ValueError("not the end of a prompt")
    return Executing(prompt_id, node, _id_or_none(data.get("display_node")))


def _execution_error(data: dict[str, Any]) -> Message:
    return ExecutionError(
        prompt_id=data["prompt_id"],
        node_id=_id(data["node_id"]),
        node_type=_name(data["node_type"]),
        exception_type=_name(data["exception_type"]),
        exception_message=str(data["exception_message"])[:LONGEST_EXCEPTION],
    )


_DECODERS: Mapping[str, Callable[[dict[str, Any]], Message]] = {
    "status": _status,
    "execution_start": lambda data: ExecutionStart(data["prompt_id"]),
    "execution_cached": lambda data: ExecutionCached(data["prompt_id"], tuple(map(_id, data["nodes"]))),
    "executing": _executing,
    "progress": lambda data: Progress(
        data.get("prompt_id"), _id_or_none(data.get("node")), _number(data["value"]), _number(data["max"])
    ),
    "progress_state": _progress_state,
    "executed": _executed,
    "execution_success": lambda data: ExecutionSuccess(data["prompt_id"]),
    "execution_error": _execution_error,
    "execution_interrupted": lambda data: ExecutionInterrupted(
        data["prompt_id"], _id(data["node_id"]), _name(data["node_type"])
    ),
}


def _preview(rest: bytes) -> Message:
    (kind,) = struct.unpack_from(">I", rest)
    return Preview(_IMAGE_TYPES[kind], rest[4:])


def _preview_with_metadata(rest: bytes) -> Message:
    (length,) = struct.unpack_from(">I", rest)
    metadata = engine_json.parsed(rest[4 : 4 + length], max_weight=MAX_FRAME_WEIGHT)
    kind: Literal["jpeg", "png"] = "png" if metadata.get("image_type") == "image/png" else "jpeg"
    return Preview(kind, rest[4 + length :], _id_or_none(metadata.get("node_id")), metadata.get("prompt_id"))


def _progress_text(rest: bytes) -> Message:
    (length,) = struct.unpack_from(">I", rest)
    return ProgressText(_id(rest[4 : 4 + length].decode()), rest[4 + length :].decode())


_IMAGE_TYPES: Mapping[int, Literal["jpeg", "png"]] = {1: "jpeg", 2: "png"}
_BINARY_DECODERS: Mapping[int, Callable[[bytes], Message]] = {
    1: _preview,
    3: _progress_text,
    4: _preview_with_metadata,
}


def _number(value: object) -> float:
    """Return a number of steps, finite and not negative: a node may report any number, and a record repeats it."""
    return min(max(0.0, float(value)), MOST_STEPS) if isinstance(value, int | float) else 0.0
