"""The meaning of a finished prompt's history."""

import pytest

from workers.comfy.engine import History
from workers.comfy.history import LONGEST_MESSAGE, failure_of
from workers.errors import EngineUnavailable, JobCancelled, NodeFailed, OutOfMemory
from workflows.messages import ExecutionError, ExecutionInterrupted, ExecutionStart, Message

STOPPED = ExecutionInterrupted("p", "1", "KSampler")


def error(exception_type: str = "RuntimeError", message: str = "boom") -> ExecutionError:
    return ExecutionError("p", "3", "KSampler", exception_type, message)


def ended(status: str, *messages: Message) -> History:
    return History(status, status == "success", {}, messages)


def test_a_successful_prompt_with_an_error_message_succeeds() -> None:
    """A prompt that succeeds has no failure, even if a blocked branch left an error message."""
    assert failure_of(ended("success", error()), cancelled=True) is None


@pytest.mark.parametrize(
    ("messages", "cancelled", "failure"),
    [
        ((ExecutionStart("p"), error()), False, NodeFailed),
        ((ExecutionStart("p"), error()), True, NodeFailed),
        ((error("torch.OutOfMemoryError"),), False, OutOfMemory),
        ((error("torch.cuda.OutOfMemoryError"),), False, OutOfMemory),
        ((error(), STOPPED), True, JobCancelled),
        ((STOPPED,), False, EngineUnavailable),
        ((), False, NodeFailed),
    ],
)
def test_the_last_message_decides_the_failure(
    messages: tuple[Message, ...], cancelled: bool, failure: type[Exception]
) -> None:
    """The last message decides the failure, and an interrupt is a cancellation only if the worker requested it."""
    assert type(failure_of(ended("error", *messages), cancelled=cancelled)) is failure


def test_a_long_message_is_cut() -> None:
    """A long exception message, which may contain whole tensors, is truncated."""
    failure = failure_of(ended("error", error(message="x" * 10**6)), cancelled=False)
    assert failure is not None
    assert len(failure.message) == LONGEST_MESSAGE


def test_an_exception_without_a_message_is_named() -> None:
    """An exception without a message is reported by its type."""
    failure = failure_of(ended("error", error(message=" \n")), cancelled=False)
    assert failure is not None
    assert failure.message == "RuntimeError"
