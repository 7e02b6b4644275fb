"""The errors of the storage layer.

StorageError
├── ObjectNotFound        no object under this key
├── PreconditionFailed    a conditional write lost the race (S3's 404, 409 and 412 alike): re-read
├── StorageUnavailable    the bucket did not answer, or answered 5xx after the configured retries
│   ├── AbsenceUnclear    a 404 that is not S3's for a missing object (in `storage.bucket._s3_clients`)
│   └── BudgetSpent       it did not answer within what the request may wait for it
├── LocalDiskFull         an object did not fit on the disk of the process that reads it
├── StorageRefused        credentials, bucket name or policy are wrong: an operator must act
│   ├── ClockWrong        this machine's clock differs from the bucket's
│   └── NotSupported      the store does not know the request (in `storage.bucket.setup`)
├── RangeBeyondEnd        the object ends before the first requested byte (in `storage.bucket._s3_clients`)
├── RecordUnreadable      a newer version wrote the record, or it is damaged: leave it alone
├── JobNotFound           no such job in this tenant
│   └── JobGone           there was one, and it was removed
├── BatchNotFound         no such batch in this tenant
│   └── BatchGone         there was one, and it was removed
├── KeyNotFound           the bucket has no such API key
├── LookupsBusy           too many unknown API keys are being looked up
├── EngineInfoTooLarge    an engine says more of its nodes than the API can read
├── LogNotFound           the attempt wrote no log
├── UploadNotFound        no such upload in this tenant
├── UploadIncomplete      the bytes that an upload promised are not there
├── AssetNotFound         no such asset in this tenant
├── AssetInUse            the asset is an output, or a job that has not ended reads it
├── SealBroken            a client's secret cannot be opened
├── FetchFailed           a user's URL did not give its bytes
├── FetchRefused          a user's URL, its address or its content is not allowed
├── FileRefused         a file that is of no listed format, is broken, or becomes too large in an engine
├── FileChanged           a file became shorter before it was uploaded
├── CheckUnavailable      a file could not be examined now, which says nothing about the file
├── IdempotencyKeyReused  the key stands for another request
├── BadCursor             a list cursor that this store did not issue
└── TransitionRefused     the job's state does not allow the change
    └── AttemptFenced     the caller's attempt no longer holds the job
"""

from datetime import datetime


class StorageError(Exception):
    """Base of all storage errors."""


class ObjectNotFound(StorageError):
    """No object exists under this key."""


class PreconditionFailed(StorageError):
    """Another writer was first: read the object again and decide again."""


class StorageUnavailable(StorageError):
    """The bucket could not be reached, or failed after the configured retries."""


class BudgetSpent(StorageUnavailable):
    """The request has used up its time for bucket calls; see `storage.bucket.budget`."""


class DiskAlmostFull(StorageError):
    """The disk that holds the bucket has too little free space for new data."""

    def __init__(self, missing_bytes: int) -> None:
        super().__init__(f"the disk of the bucket is almost full: {missing_bytes} bytes must be freed first")


class LocalDiskFull(StorageError):
    """A local file of a download could not be written. The bucket did not fail."""


class StorageRefused(StorageError):
    """The bucket refuses this client: credentials, bucket name or policy are wrong."""


class ClockWrong(StorageRefused):
    """This machine's clock differs from the bucket's by more than leases or signatures tolerate."""


class RecordUnreadable(StorageError):
    """This version cannot read the record. Its index keys are kept for a version that can."""


class JobNotFound(StorageError):
    """The tenant has no such job."""


class JobGone(JobNotFound):
    """The job was removed after its retention time or on request, and a tombstone replaces it."""

    def __init__(self, job_id: str, gone_at: datetime) -> None:
        super().__init__(job_id)
        self.gone_at = gone_at


class BatchNotFound(StorageError):
    """The tenant has no such batch."""


class BatchGone(BatchNotFound):
    """The batch was removed."""

    def __init__(self, batch_id: str, gone_at: datetime) -> None:
        super().__init__(batch_id)
        self.gone_at = gone_at


class KeyNotFound(StorageError):
    """The bucket has no record of such an API key."""


class LookupsBusy(StorageError):
    """Too many API keys that this process does not know are being looked up, which says nothing about this one."""


class LogNotFound(StorageError):
    """The attempt wrote no log, or there was no such attempt."""


class UploadNotFound(StorageError):
    """The tenant has no such upload."""


class UploadIncomplete(StorageError):
    """Some or all of the declared bytes are missing."""


class AssetNotFound(StorageError):
    """The tenant has no such asset."""


class AssetInUse(StorageError):
    """The asset cannot be deleted now."""


class SealBroken(StorageError):
    """A sealed secret cannot be opened. The message never repeats the secret."""


class FetchFailed(StorageError):
    """The server of a user's URL failed, or was too slow."""


class FileRefused(StorageError):
    """The file is not accepted; the message says why."""


class EngineInfoTooLarge(StorageError):
    """An engine's object_info is larger than the API can read."""


class FileChanged(StorageError):
    """The file to upload has fewer bytes than it had when its size was checked."""


class CheckUnavailable(StorageError):
    """Too many files are being examined, or the system ended the examination."""


class FetchRefused(StorageError):
    """The URL, its address or its content is not allowed."""


class BadCursor(StorageError):
    """The cursor was not issued by this store."""


class IdempotencyKeyReused(StorageError):
    """The same idempotency key came with another request."""


class TransitionRefused(StorageError):
    """The job's current state does not allow this change."""


class AttemptFenced(TransitionRefused):
    """The caller's attempt is no longer the current one, so it may write nothing."""
