"""botocore's errors in this room's words, in one place."""

from collections.abc import Iterator
from contextlib import contextmanager

from storage.errors import ObjectNotFound, PreconditionFailed, StorageError, StorageRefused, StorageUnavailable

_TRY_LATER = frozenset({408, 429})


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
    if status == 404 and code != "NoSuchBucket":
        return ObjectNotFound(key)
    if status in (409, 412):
        return PreconditionFailed(key)
    if 400 <= status < 500 and status not in _TRY_LATER:
        return StorageRefused(f"the bucket refuses this client: {code or status}")
    return StorageUnavailable(f"{key}: the bucket answered {status} {code}".rstrip())
