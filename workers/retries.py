"""The retry policy by error code: infrastructure faults are repeated, a job's own faults never."""

from collections.abc import Mapping
from enum import Enum

from storage.jobs.record import WORKER_LOST
from workers.errors import (
    BadMedium,
    CheckFailed,
    EngineError,
    EngineStalled,
    EngineUnavailable,
    JobCancelled,
    JobTimedOut,
    NodeFailed,
    OutOfMemory,
    OutputFailed,
    PromptRefused,
    StagingFailed,
    StorageFailed,
    WorkerError,
)


class Repeat(Enum):
    """AUTOMATIC: repeated while attempts are left. BY_CALLER: the same job may succeed later. NEVER: it would fail."""

    AUTOMATIC = "automatic"
    BY_CALLER = "by_caller"
    NEVER = "never"


POLICY: Mapping[str, Repeat] = {
    WORKER_LOST: Repeat.AUTOMATIC,
    EngineError.code: Repeat.AUTOMATIC,
    EngineUnavailable.code: Repeat.AUTOMATIC,
    EngineStalled.code: Repeat.AUTOMATIC,
    StorageFailed.code: Repeat.AUTOMATIC,
    CheckFailed.code: Repeat.AUTOMATIC,
    OutOfMemory.code: Repeat.BY_CALLER,  # a fresh engine may have enough free memory
    WorkerError.code: Repeat.BY_CALLER,
    PromptRefused.code: Repeat.NEVER,
    NodeFailed.code: Repeat.NEVER,
    JobTimedOut.code: Repeat.NEVER,
    JobCancelled.code: Repeat.NEVER,
    StagingFailed.code: Repeat.NEVER,
    BadMedium.code: Repeat.NEVER,
    OutputFailed.code: Repeat.NEVER,
}


def is_repeated(code: str) -> bool:
    """Whether the job returns to the queue automatically."""
    return POLICY[code] is Repeat.AUTOMATIC


def is_retryable(code: str) -> bool:
    """Return the value of `error_detail.retryable`."""
    return POLICY[code] is not Repeat.NEVER
