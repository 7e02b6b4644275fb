"""botocore's errors in this room's words, in one place."""

from collections.abc import Iterator
from contextlib import contextmanager

from storage.errors import ObjectNotFound, PreconditionFailed, StorageError, StorageRefused, StorageUnavailable

_REFUSED_CODES = frozenset({"NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"})


@contextmanager
def translated(key: str) -> Iterator[None]:
    """Raise `StorageError`s for whatever boto3 raises inside. Messages name the key and never a credential."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        raise _of_answer(status, error.response.get("Error", {}).get("Code", ""), key) from error
    except NoCredentialsError as error:
        raise StorageRefused("no credentials for the bucket") from error
    except (BotoCoreError, Boto3Error, OSError) as error:
        raise StorageUnavailable(f"{key}: {type(error).__name__}") from error


def _of_answer(status: int, code: str, key: str) -> StorageError:
    if code in _REFUSED_CODES or status in (401, 403):
        return StorageRefused(f"the bucket refuses this client: {code or status}")
    if status == 404:
        return ObjectNotFound(key)
    if status in (409, 412):
        return PreconditionFailed(key)
    return StorageUnavailable(f"{key}: the bucket answered {status} {code}".rstrip())
