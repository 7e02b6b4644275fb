"""Interprets the history of a finished prompt. Pure."""

from workers.comfy.engine import History
from workers.errors import EngineUnavailable, JobCancelled, NodeFailed, OutOfMemory, WorkerError
from workflows.messages import ExecutionError, ExecutionInterrupted

LONGEST_MESSAGE = 4000
"""Maximum characters of an exception: some nodes put whole tensors into theirs."""


def failure_of(history: History, *, cancelled: bool) -> WorkerError | None:
    """Return why the prompt failed; None if it succeeded.

    The status decides, not the messages: a blocked branch leaves an error message although the prompt succeeds. An
    interrupt has the status of an error; the last of the two messages distinguishes them.
    """
    if history.status_str == "success":
        return None
    for message in reversed(history.messages):
        match message:
            case ExecutionInterrupted():
                if cancelled:
                    return JobCancelled("interrupted")
                return EngineUnavailable("someone else interrupted this ComfyUI")
            case ExecutionError():
                return _node_failure(message)
    return NodeFailed("ComfyUI reports a failure without a reason")


def _node_failure(error: ExecutionError) -> NodeFailed | OutOfMemory:
    kind = OutOfMemory if error.exception_type.endswith("OutOfMemoryError") else NodeFailed
    return kind(
        error.exception_message.strip()[:LONGEST_MESSAGE] or error.exception_type,
        node_id=error.node_id,
        class_type=error.node_type,
        exception_type=error.exception_type,
    )
