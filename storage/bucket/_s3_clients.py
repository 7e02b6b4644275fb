"""boto3 clients of the bucket: their configuration, a fast parser of LIST responses, and the translation of errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from html import unescape
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from storage.errors import (
    ClockWrong,
    ObjectNotFound,
    PreconditionFailed,
    StorageError,
    StorageRefused,
    StorageUnavailable,
)

if TYPE_CHECKING:
    from boto3.session import Session
    from botocore.exceptions import ClientError
    from botocore.loaders import Loader
    from mypy_boto3_s3.client import S3Client

_FOUND = "Keys"
_WITH_ETAG = ("PutObject", "CopyObject", "CompleteMultipartUpload", "GetObject", "HeadObject")
_START, _END = b"<Contents>", b"</Contents>"
_NEXT = re.compile(rb"</Contents>\s*<Contents>")
_KEY = re.compile(rb"<Key>([^<]*)</Key>")
_TRY_LATER = frozenset({408, 429})
_TOO_SKEWED = "RequestTimeTooSkewed"
"""S3 refuses signatures that differ from its clock by more than 15 minutes."""
_NO_OBJECT = "NoSuchKey"
_REFUSALS = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem"})


@dataclass(frozen=True, slots=True)
class S3Config:
    """The bucket's configuration. Without `access_key` the usual AWS credential chain applies.

    `public_endpoint_url` is the address in presigned URLs, if clients reach the bucket by another one. `threads` is the
    maximum of concurrent requests and the size of the connection pool, `transfer_threads` that of files. One tenant has
    at most `transfers_of_tenant` of these.
    """

    bucket: str
    endpoint_url: str | None = None
    public_endpoint_url: str | None = None
    region: str = "us-east-1"
    access_key: str | None = None
    secret_key: str | None = None
    prefix: str = ""
    threads: int = 8
    transfer_threads: int = 4
    transfers_of_tenant: int | None = None
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 30.0
    attempts: int = 4


def make_client(config: S3Config, attempts: int, endpoint: str | None) -> "S3Client":
    """Create a client. With `attempts` 1 the SDK never repeats a request."""
    from botocore.config import Config

    return _session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=config.region,
        aws_access_key_id=config.access_key,
        aws_secret_access_key=config.secret_key,
        config=Config(
            signature_version="s3v4",
            # Servers other than AWS usually have no host name for each bucket.
            s3={"addressing_style": "path" if config.endpoint_url else "auto"},
            # Each of the transfers at once has as many threads; a connection beyond the pool's size is not used again.
            max_pool_connections=max(config.threads, config.transfer_threads**2),
            connect_timeout=config.connect_timeout_s,
            read_timeout=config.read_timeout_s,
            retries={"total_max_attempts": attempts, "mode": "standard"},
            # Some of them refuse the checksums that the SDK would add to each request.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _session() -> "Session":
    """Return a new session, because credentials of the AWS chain may change. All sessions share one loader."""
    import boto3
    import botocore.session

    sdk = botocore.session.get_session()
    sdk.register_component("data_loader", _loader(sdk.get_config_variable("data_path")))
    return boto3.session.Session(botocore_session=sdk)


@cache
def _loader(path: str | None) -> "Loader":
    """Return the reader of the SDK's data files. It keeps them, because each client would parse them for 60 ms."""
    from botocore.loaders import create_loader

    return create_loader(path)


def read_keys_quickly(client: "S3Client") -> None:
    """Extract keys of LIST responses by our own parser; `keys_of` returns them, and there may be no `Contents`.

    The SDK's parser takes 80 ms of processor time for 1,000 keys, this one 0.5 ms. The SDK still sends, signs and
    repeats the request, and parses the rest of the response.
    """
    # This pattern is called before `before-parse.s3.*`, where the SDK parses the whole body to find an error.
    client.meta.events.register("before-parse.*.ListObjectsV2", _take_out)


def refuse_foreign_answers(client: "S3Client") -> None:
    """Let an answer without an ETag count as a failure where S3 always sends one.

    A proxy or a login page that answers 200 in the bucket's place has stored nothing, and the SDK does not look.
    """
    for operation in _WITH_ETAG:
        client.meta.events.register(f"after-call.s3.{operation}", _require_etag)


def _require_etag(parsed: Any, model: Any, **_: Any) -> None:
    result = parsed.get(f"{model.name}Result", parsed)  # a copy has it there
    if parsed["ResponseMetadata"]["HTTPStatusCode"] < 300 and not result.get("ETag"):
        if "Body" in parsed:
            parsed["Body"].close()
        raise StorageUnavailable(f"{model.name}: the answer has no ETag, so it is not the bucket's")


def keys_of(answer: Any) -> list[str]:
    """Return the keys of a response, decoded."""
    texts: list[str] | None = answer.get(_FOUND)
    if texts is None:
        return [entry["Key"] for entry in answer.get("Contents", ())]
    return [unquote_plus(text) for text in texts] if answer.get("EncodingType") == "url" else texts


def date_of(answer: Any) -> datetime | None:
    """Return the time of a response by the server's clock; None if it has none, or one that is no date."""
    try:
        date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (LookupError, ValueError, OverflowError):
        return None
    return date if date.tzinfo is not None else None


def _take_out(response_dict: Any, customized_response_dict: Any, **_: Any) -> None:
    """Extract the keys from a response body. A body in an unknown form is left to the SDK."""
    body: bytes = response_dict["body"]
    start, end = body.find(_START), body.rfind(_END) + len(_END)
    if response_dict["status_code"] != 200 or start < 0 or b"<![CDATA[" in body:
        return
    rest, keys = body[:start] + body[end:], _KEY.findall(body, start, end)
    # Each entry must have one key, and nothing may stand between the entries.
    if len(_NEXT.findall(body)) + 1 != len(keys) or b"<Contents" in rest:
        return
    customized_response_dict[_FOUND] = [unescape(key.decode()) if b"&" in key else key.decode() for key in keys]
    response_dict["body"] = rest


class RangeBeyondEnd(StorageError):
    """The object ends before the first requested byte."""


class AbsenceUnclear(StorageUnavailable):
    """A 404 whose body does not say that the object is missing: a HEAD's, which has no body, or that of a proxy."""


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
    code = "" if code == str(status) else code  # which boto3 reports for a response without a code
    if status == 404 and code == _NO_OBJECT:
        return ObjectNotFound(key)
    # A proxy without a backend answers 404 as well, and what follows from an object's absence cannot be undone.
    if status == 404 and code != "NoSuchBucket":
        return AbsenceUnclear(f"{key}: the bucket answered 404 {code}".rstrip())
    # AWS answers 409 if a conflicting request for the key ended during this one.
    if status in (409, 412):
        return PreconditionFailed(key)
    if status == 416:
        return RangeBeyondEnd(key)
    if code == _TOO_SKEWED:
        return ClockWrong("the bucket refuses this client: this machine's clock is wrong; set it, for example by NTP")
    if 400 <= status < 500 and status not in _TRY_LATER:
        return StorageRefused(f"the bucket refuses this client: {code or status}")
    return StorageUnavailable(f"{key}: the bucket answered {status} {code}".rstrip())
