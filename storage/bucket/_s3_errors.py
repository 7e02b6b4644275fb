"""botocore's errors in this room's words, in one place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from storage.errors import ObjectNotFound, PreconditionFailed, StorageError, StorageRefused, StorageUnavailable

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_TRY_LATER = frozenset({408, 429})
_REFUSALS = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem"})


class RangeBeyondEnd(StorageError):
    """The object ends before the first byte that was asked for."""


@contextmanager
def translated(key: str) -> Iterator[None]:
    """Raise `StorageError`s for whatever boto3 raises inside. Messages name the key and never a credential."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        raise _of_client_error(error, key) from error
    except NoCredentialsError as error:
        raise StorageRefused("no credentials for the bucket") from error
    except (BotoCoreError, Boto3Error, OSError) as error:
        hidden = error.__context__  # boto3's file upload tells the server's answer only so
        if isinstance(error, Boto3Error) and isinstance(hidden, ClientError):
            raise _of_client_error(hidden, key) from error
        raise StorageUnavailable(f"{key}: {type(error).__name__}") from error


def of_entry(code: str, key: str) -> StorageError:
    """The error of one key in the answer to a batch, which is a 200 all the same."""
    if code in _REFUSALS:
        return StorageRefused(f"the bucket refuses this client: {code}")
    return StorageUnavailable(f"{key}: {code}")


def _of_client_error(error: "ClientError", key: str) -> StorageError:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return of_answer(status, error.response.get("Error", {}).get("Code", ""), key)


def of_answer(status: int, code: str, key: str) -> StorageError:
    """The error that an HTTP answer means; `code` is S3's word for it, where it gave one."""
    if status == 404 and code != "NoSuchBucket":
        return ObjectNotFound(key)
    if status in (409, 412):
        return PreconditionFailed(key)
    if status == 416:
        return RangeBeyondEnd(key)
    if 400 <= status < 500 and status not in _TRY_LATER:
        return StorageRefused(f"the bucket refuses this client: {code or status}")
    return StorageUnavailable(f"{key}: the bucket answered {status} {code}".rstrip())
