"""What a finished prompt's history means."""

import pytest

from workers.comfy.engine import History
from workers.comfy.history import LONGEST_MESSAGE, failure_of
from workers.errors import EngineUnavailable, JobCancelled, NodeFailed, OutOfMemory
from workflows.messages import ExecutionError, ExecutionInterrupted, ExecutionStart, Message

STOPPED = ExecutionInterrupted("p", "1", "KSampler")


def error(exception_type: str = "RuntimeError", message: str = "boom") -> ExecutionError:
    return ExecutionError("p", "3", "KSampler", exception_type, message, ())


def ended(status: str, *messages: Message) -> History:
    return History(status, status == "success", {}, messages)


def test_success_is_success_whatever_was_said() -> None:
    """A blocked branch leaves an error message in a prompt that succeeds."""
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
def test_the_last_word_tells(messages: tuple[Message, ...], cancelled: bool, failure: type[Exception]) -> None:
    """An interrupt has the status of an error; only its message tells, and only ours is a cancellation."""
    assert type(failure_of(ended("error", *messages), cancelled=cancelled)) is failure


def test_a_long_message_is_cut() -> None:
    """Some nodes put whole tensors into their exceptions."""
    failure = failure_of(ended("error", error(message="x" * 10**6)), cancelled=False)
    assert failure is not None
    assert len(failure.message) == LONGEST_MESSAGE


def test_an_exception_without_a_message_is_named() -> None:
    """Its type is better than nothing."""
    failure = failure_of(ended("error", error(message=" \n")), cancelled=False)
    assert failure is not None
    assert failure.message == "RuntimeError"
