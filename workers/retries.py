"""What is done about a failure, by its code: the machinery's faults are repeated, a job's own never."""

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
    """AUTOMATIC: by us, while attempts are left. BY_CALLER: the same job may succeed later. NEVER: it would not."""

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
    OutOfMemory.code: Repeat.BY_CALLER,  # a clean engine may have the room that a full one lacked
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
    """Whether the job goes back to the queue by itself."""
    return POLICY[code] is Repeat.AUTOMATIC


def is_retryable(code: str) -> bool:
    """What `error_detail.retryable` tells."""
    return POLICY[code] is not Repeat.NEVER
