"""Small objects over object_store, a library in Rust with a tenth of boto3's processor time per request.

There are two stores: one sends conditional writes exactly once; the other repeats idempotent requests. The library
reports an HTTP response only in its error text, which is parsed here.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from storage.bucket._s3_clients import S3Config, of_answer, of_entry
from storage.bucket._threads import Threads
from storage.bucket.objects import ObjectHead, StoredObject
from storage.errors import StorageRefused, StorageUnavailable

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import S3Store

T = TypeVar("T")

LARGEST = 1024 * 1024
"""Maximum body size, because the response timeout includes the time to send the body."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9/._=-]+", re.ASCII)
"""Keys that every S3 client encodes the same way, which all of ours are except file names."""
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9]+)</Code>")
_ENTRY = re.compile(r"DeleteObjects request failed for key .*?: .*? \(code: (\w+)\)", re.DOTALL)
_ELSEWHERE = "incorrectly configured region"
_PANIC = "PanicException"
"""The class name of a Rust panic, for example at a response with an unrequested key. It is not an `Exception`."""
_BACKOFF = timedelta(milliseconds=50), timedelta(seconds=2)
"""The delay before the first retry, and the maximum."""


def fits(key: str, size: int = 0) -> bool:
    """Whether an object of this key and size can be sent with object_store."""
    return size <= LARGEST and _PLAIN_KEY.fullmatch(key) is not None


class SmallObjects:
    """Keys include the prefix here. Errors name `display_key`, the key without it."""

    def __init__(self, config: S3Config) -> None:
        self._config = config
        self.threads = Threads(config.threads)

    async def put(self, key: str, body: bytes, content_type: str, *, display_key: str) -> str:
        """Write unconditionally and return the ETag."""
        return await self._put(self._patient, key, body, content_type, display_key, "overwrite")

    async def create(self, key: str, body: bytes, content_type: str, *, display_key: str) -> str:
        return await self._put(self._once, key, body, content_type, display_key, "create")

    async def replace(self, key: str, body: bytes, content_type: str, *, display_key: str, etag: str) -> str:
        known: PutMode = {"e_tag": f'"{etag}"'}
        return await self._put(self._once, key, body, content_type, display_key, known)

    async def get(self, key: str, *, display_key: str) -> StoredObject:
        import obstore

        def read() -> tuple[Any, bytes]:
            with _translated(display_key):
                answer = obstore.get(self._patient, key)
                return answer, bytes(answer.bytes())

        answer, body = await self._in_thread(read, display_key)
        meta = answer.meta
        content_type = str(answer.attributes.get("Content-Type", "application/octet-stream"))
        head = ObjectHead(display_key, unquoted(meta["e_tag"]), len(body), content_type, meta["last_modified"])
        return StoredObject(head, body)

    async def delete(self, keys: Sequence[str], *, display_key: str) -> None:
        """Delete at most 1,000 keys with one request."""
        import obstore

        def remove() -> None:
            with _translated(display_key):
                obstore.delete(self._patient, keys)

        await self._in_thread(remove, display_key)

    async def _put(
        self, store: "S3Store", key: str, body: bytes, content_type: str, display_key: str, mode: "PutMode"
    ) -> str:
        import obstore

        def write() -> str:
            with _translated(display_key):
                answer = obstore.put(
                    store, key, body, attributes={"Content-Type": content_type}, mode=mode, use_multipart=False
                )
            return unquoted(answer["e_tag"])

        return await self._in_thread(write, display_key)

    async def _in_thread(self, call: Callable[[], T], display_key: str) -> T:
        """Run a blocking call of the library in a thread."""
        # With the library's own coroutines its threads call into the interpreter; one that does so while the process
        # ends aborts it.
        return await self.threads.run(call, display_key)

    @cached_property
    def _patient(self) -> "S3Store":
        return self._store(self._config.attempts)

    @cached_property
    def _once(self) -> "S3Store":
        return self._store(1)

    def _store(self, attempts: int) -> "S3Store":
        """Open a store that sends each request at most `attempts` times."""
        # Every option is given explicitly, since the library takes missing ones from AWS_* variables.
        from obstore.store import S3Store

        config, (first, longest) = self._config, _BACKOFF
        address: Any = {} if config.endpoint_url is None else {"endpoint": config.endpoint_url}
        return S3Store(
            config.bucket,
            region=config.region,
            # A bucket's name with a dot does not match the wildcard of AWS's certificate.
            virtual_hosted_style_request=config.endpoint_url is None and "." not in config.bucket,
            conditional_put="etag",
            skip_signature=False,
            unsigned_payload=False,
            credential_provider=_credentials(config),
            client_options={
                "allow_http": (config.endpoint_url or "").startswith("http://"),
                "connect_timeout": timedelta(seconds=config.connect_timeout_s),
                "read_timeout": timedelta(seconds=config.read_timeout_s),
                "timeout": _NO_LIMIT,
            },
            retry_config={
                "max_retries": attempts - 1,
                "retry_timeout": timedelta(seconds=attempts * (config.connect_timeout_s + config.read_timeout_s)),
                "backoff": {"init_backoff": first, "max_backoff": longest, "base": 2},
            },
            **address,
        )


def _credentials(config: S3Config) -> Any:
    """Return the credentials: the settings' key or, without one, those of the usual AWS chain."""
    if config.access_key is not None:
        key = {"access_key_id": config.access_key, "secret_access_key": config.secret_key, "expires_at": None}
        return lambda: key
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.session.Session(region_name=config.region)
    if session.get_credentials() is None:
        raise StorageRefused("no credentials for the bucket")
    return Boto3CredentialProvider(session)


_NO_LIMIT = timedelta(hours=1)
"""The limit of a whole request, which is in effect none: only the time without progress is limited."""


def unquoted(etag: str | None) -> str:
    """Return the ETag of an answer. Raises `StorageUnavailable` if there is none: then a proxy has answered."""
    if not etag:
        raise StorageUnavailable("the answer has no ETag, so it is not the bucket's")
    return etag.strip('"')


@contextmanager
def _translated(display_key: str) -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:
        words = str(error).partition("\n\nDebug source")[0]
        if (entry := _ENTRY.search(words)) is not None:
            raise of_entry(entry[1], display_key) from error
        if (status := _STATUS.search(words)) is not None:
            code = _CODE.search(words)
            raise of_answer(int(status[1]), code[1] if code else "", display_key) from error
        if _ELSEWHERE in words:
            raise StorageRefused("the bucket is in another region than the one that is set") from error
        raise StorageUnavailable(f"{display_key}: {type(error).__name__}") from error
    except BaseException as error:
        if type(error).__name__ == _PANIC:
            raise StorageUnavailable(f"{display_key}: {_PANIC}") from error
        raise
