"""Translates botocore's errors to the storage layer's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from storage.errors import ObjectNotFound, PreconditionFailed, StorageError, StorageRefused, StorageUnavailable

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_TRY_LATER = frozenset({408, 429})
_REFUSALS = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem"})


class RangeBeyondEnd(StorageError):
    """The object ends before the first requested byte."""


@contextmanager
def translated(key: str) -> Iterator[None]:
    """Translate every error of boto3 into a `StorageError`. Messages name the key and never a credential."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        raise _of_client_error(error, key) from error
    except NoCredentialsError as error:
        raise StorageRefused("no credentials for the bucket") from error
    except (BotoCoreError, Boto3Error, OSError) as error:
        hidden = error.__context__  # boto3's file upload has the server's response only here
        if isinstance(error, Boto3Error) and isinstance(hidden, ClientError):
            raise _of_client_error(hidden, key) from error
        raise StorageUnavailable(f"{key}: {type(error).__name__}") from error


def of_entry(code: str, key: str) -> StorageError:
    """Return the error of one key in the response to a batch, which is a 200 even if keys failed."""
    if code in _REFUSALS:
        return StorageRefused(f"the bucket refuses this client: {code}")
    return StorageUnavailable(f"{key}: {code}")


def _of_client_error(error: "ClientError", key: str) -> StorageError:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return of_answer(status, error.response.get("Error", {}).get("Code", ""), key)


def of_answer(status: int, code: str, key: str) -> StorageError:
    """Return the error of an HTTP response. `code` is S3's error code, if there is one."""
    if status == 404 and code != "NoSuchBucket":
        return ObjectNotFound(key)
    if status in (409, 412):
        return PreconditionFailed(key)
    if status == 416:
        return RangeBeyondEnd(key)
    if 400 <= status < 500 and status not in _TRY_LATER:
        return StorageRefused(f"the bucket refuses this client: {code or status}")
    return StorageUnavailable(f"{key}: the bucket answered {status} {code}".rstrip())
