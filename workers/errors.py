"""The errors of the workers. `code` is the stable code in a job's `error_detail`, one per class.

`repeat` is the retry policy: infrastructure faults are repeated, a job's own faults never.

WorkerError
├── EngineError             ComfyUI itself is at fault, not the workflow
│   ├── EngineUnavailable   it did not start, does not answer, or died
│   │   └── EngineMisconfigured   it cannot start with this configuration
│   └── EngineStalled       it answers, but the job makes no progress, or ignores an interrupt
├── PromptRefused           ComfyUI refused the graph, or part of it
├── NodeFailed              a node raised
├── OutOfMemory             a node ran out of GPU memory
├── JobTimedOut             the job's timeout_s passed
├── DeadlineExceeded        the job's deadline_s passed
├── JobCancelled            the job's owner cancelled it
├── BadInputFile               an input is of no listed format, is broken, or becomes too large in ComfyUI
├── CheckFailed             an input could not be examined: the worker's machine is at its limits
├── StagingFailed           an input could not be put into ComfyUI's input folder
├── OutputFailed            an output could not be read, or not be stored
├── WorkerDiskFull          an input or an output did not fit on the worker's disk
└── StorageFailed           the bucket failed or refused for longer than a worker waits
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar

from storage.jobs.record import CANCELLED, DEADLINE_EXCEEDED


class Repeat(Enum):
    """AUTOMATIC: repeated while attempts are left. BY_CALLER: the same job may succeed later. NEVER: it would fail."""

    AUTOMATIC = "automatic"
    BY_CALLER = "by_caller"
    NEVER = "never"


class WorkerError(Exception):
    """Base of the workers' errors. `node_id`, `class_type` and `exception_type` name the node that failed, if any."""

    code: ClassVar[str] = "internal_error"
    repeat: ClassVar[Repeat] = Repeat.BY_CALLER

    def __init__(
        self,
        message: str,
        *,
        node_id: str | None = None,
        class_type: str | None = None,
        exception_type: str | None = None,
        node_errors: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.node_id = node_id
        self.class_type = class_type
        self.exception_type = exception_type
        self.node_errors = node_errors


class EngineError(WorkerError):
    code = "engine_error"
    repeat = Repeat.AUTOMATIC


class EngineUnavailable(EngineError):
    code = "engine_unavailable"


class EngineMisconfigured(EngineUnavailable):
    """A folder, a flag or a module is wrong or missing, so a retry does not help."""


class EngineStalled(EngineError):
    code = "engine_stalled"


class PromptRefused(WorkerError):
    """`node_errors` is ComfyUI's own, by node id."""

    code = "prompt_refused"
    repeat = Repeat.NEVER


class NodeFailed(WorkerError):
    code = "node_error"
    repeat = Repeat.NEVER


class OutOfMemory(WorkerError):
    code = "out_of_memory"  # repeated by the caller: a fresh engine may have enough free memory


class JobTimedOut(WorkerError):
    code = "timeout"
    repeat = Repeat.NEVER


class DeadlineExceeded(WorkerError):
    code = DEADLINE_EXCEEDED
    repeat = Repeat.NEVER


class JobCancelled(WorkerError):
    code = CANCELLED
    repeat = Repeat.NEVER


class BadInputFile(WorkerError):
    code = "bad_medium"
    repeat = Repeat.NEVER


class CheckFailed(WorkerError):
    code = "check_failed"
    repeat = Repeat.AUTOMATIC


class StagingFailed(WorkerError):
    code = "staging_failed"
    repeat = Repeat.NEVER


class OutputFailed(WorkerError):
    code = "output_failed"
    repeat = Repeat.NEVER


class WorkerDiskFull(WorkerError):
    code = "worker_disk_full"  # the worker waits for space before it claims another job
    repeat = Repeat.AUTOMATIC


class StorageFailed(WorkerError):
    code = "storage_failed"
    repeat = Repeat.AUTOMATIC
