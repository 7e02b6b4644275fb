"""`ObjectStore` for any S3 endpoint.

Records and index keys use object_store (`_s3_small`); lists, large bodies and files use boto3, whose blocking calls run
on bounded pools of threads. Presigned URLs need neither (`_s3_presign`).

- Conditional writes are sent exactly once: a retry after a lost response would report 412 for our own write. They are
  also serialised per key, since some servers delay the losers of a race for seconds.
- Reads, lists, deletes and unconditional puts are idempotent, so they may be retried.
- Transfers have their own connection pool, so that large files do not starve small requests.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from storage import keys
from storage.bucket._s3_clients import (
    AbsenceUnclear,
    RangeBeyondEnd,
    S3Config,
    date_of,
    keys_of,
    make_client,
    of_entry,
    read_keys_quickly,
    refuse_foreign_answers,
    translated,
)
from storage.bucket._s3_files import PART_BYTES, FileTransfer
from storage.bucket._s3_presign import Presigner, content_disposition
from storage.bucket._s3_small import LARGEST, SmallObjects, fits, unquoted
from storage.bucket._threads import Threads
from storage.bucket.budget import note_write, within_budget
from storage.bucket.objects import KeyPage, ObjectHead, SignedRequest, StoredObject, first_bytes
from storage.errors import ObjectNotFound, PreconditionFailed, StorageError, StorageUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

__all__ = ["PART_BYTES", "S3Config", "S3ObjectStore", "content_disposition"]

T = TypeVar("T")

DELETE_BATCH = 1000
_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, and so no DeleteObjects; one of them makes S3 refuse the whole batch."""
MOST_EMPTY_PAGES = 100
"""Pages without keys that one list passes over."""


class S3ObjectStore:
    """`requests` counts operations by S3's verbs; a file's transfer counts as one."""

    def __init__(self, config: S3Config) -> None:
        self._config = config
        self._prefix = keys.root(config.prefix)
        self._threads = Threads(config.threads)
        self._transfers = Threads(config.transfer_threads, config.transfers_of_tenant)
        self._small = SmallObjects(config)
        self._presigner = Presigner(config)
        self._clients: dict[str, S3Client] = {}
        self._making = Lock()
        self._writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.requests: Counter[str] = Counter()

    # Small objects.

    async def put(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        self.requests["PUT"] += 1
        if fits(self._prefix + key, len(body)):
            return await self._small.put(self._prefix + key, body, content_type, display_key=key)
        answer = await self._call(
            lambda: self._reader.put_object(**self._at(key), Body=body, ContentType=content_type), key
        )
        return unquoted(answer["ETag"])

    async def create(self, key: str, body: bytes, *, content_type: str = "application/json") -> str:
        return await self._conditional(key, body, content_type, None)

    async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
        return await self._conditional(key, body, content_type, etag)

    async def get(self, key: str) -> StoredObject:
        self.requests["GET"] += 1
        if fits(self._prefix + key):
            return await self._small.get(self._prefix + key, display_key=key)

        def read() -> StoredObject:
            answer, body = self._read_whole(key)
            return StoredObject(_head(key, answer, len(body)), body)

        return await self._call(read, key)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        self.requests["GET"] += 1
        wanted = f"bytes={start}-{start + length - 1}"

        def read() -> bytes:
            return self._read_whole(key, Range=wanted)[1]

        try:
            return await self._call(read, key)
        except RangeBeyondEnd:
            return b""

    async def head(self, key: str) -> ObjectHead:
        self.requests["HEAD"] += 1
        async with self._absence_named(key):
            answer = await self._call(lambda: self._reader.head_object(**self._at(key)), key)
        return _head(key, answer, answer["ContentLength"])

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> KeyPage:
        start = {"StartAfter": self._prefix + after} if after else {}
        # S3 allows pages that are empty and not the last, such as those of deleted keys in a bucket with versions.
        for _ in range(MOST_EMPTY_PAGES):
            answer = await self._listed(prefix, limit, start)
            page = _page_of(answer, self._prefix, prefix, after)
            if page.keys or not page.more:
                return page
            start = {"ContinuationToken": answer.get("NextContinuationToken", "")}
        raise StorageUnavailable(f"{prefix}: {MOST_EMPTY_PAGES} pages of the list are empty, and none is the last")

    async def _listed(self, prefix: str, limit: int, start: dict[str, str]) -> Any:
        self.requests["LIST"] += 1
        return await self._call(
            lambda: self._reader.list_objects_v2(
                Bucket=self._config.bucket,
                Prefix=self._prefix + prefix,
                MaxKeys=limit,
                **start,  # type: ignore[arg-type]  # the stubs type each keyword alone
            ),
            prefix,
        )

    async def delete(self, *keys: str) -> None:
        for start in range(0, len(keys), DELETE_BATCH):
            batch = keys[start : start + DELETE_BATCH]
            self.requests["DELETE"] += 1
            if all(fits(self._prefix + key) for key in batch):
                await self._small.delete([self._prefix + key for key in batch], display_key=batch[0])
            else:
                await self._call(lambda batch=batch: self._delete_batch(batch), batch[0])  # type: ignore[misc]

    # Files.

    async def upload_file(self, key: str, path: Path, *, content_type: str, size: int | None = None) -> None:
        if size is None:
            size = _size_of(path)
        if size <= LARGEST:
            with translated(key):
                body = first_bytes(path, size)
            await self.put(key, body, content_type=content_type)
            return
        self.requests["PUT"] += 1
        await self._move(key, lambda transfer: transfer.send(self._at(key), path, size, content_type))

    async def download_file(self, key: str, path: Path) -> None:
        self.requests["GET"] += 1
        await self._move(key, lambda transfer: transfer.receive(self._at(key), path))

    async def copy(self, source: str, target: str, *, content_type: str) -> None:
        self.requests["COPY"] += 1
        origin = self._at(source)
        async with self._absence_named(source):
            await self._move(target, lambda transfer: transfer.copy(origin, self._at(target), content_type))

    async def _move(self, key: str, move: Callable[[FileTransfer], None]) -> None:
        """Run a transfer, which ends soon after this call has been cancelled."""
        transfer = FileTransfer(lambda: self._transfer, self._transfers.moved, threads=self._config.transfer_threads)
        try:
            with translated(key):
                await self._transfers.transfer(lambda: move(transfer), key)
        except KeyError as error:  # of the SDK's transfer manager, for an answer that is not the bucket's
            raise StorageUnavailable(f"{key}: the answer lacks {error}") from error
        finally:
            transfer.stop()

    # Presigned requests.

    def presign_get(self, key: str, *, expires_s: int, filename: str, content_type: str) -> SignedRequest:
        return self._presigner.get(key, expires_s=expires_s, filename=filename, content_type=content_type)

    def presign_put(self, key: str, *, expires_s: int, size: int, content_type: str) -> SignedRequest:
        return self._presigner.put(key, expires_s=expires_s, size=size, content_type=content_type)

    async def close(self) -> None:
        for threads in (self._small.threads, self._threads, self._transfers):
            threads.close()
        for client in self._clients.values():
            client.close()

    # The conditional write.

    async def _conditional(self, key: str, body: bytes, content_type: str, etag: str | None) -> str:
        """Make one conditional write. After an unclear response the object is read back: our own body means success."""
        self.requests["PUT"] += 1
        try:
            async with self._turn(key):
                return await self._send_once(key, body, content_type, etag)
        except ObjectNotFound as lost:  # AWS returns 404 for If-Match on a missing key
            raise PreconditionFailed(key) from lost
        except (PreconditionFailed, StorageUnavailable) as unclear:
            return await self._settle(key, body, unclear)

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncIterator[None]:
        """Hold this process's turn to write the key. The wait counts as a wait for the bucket."""
        # The dictionary is weak: a key's lock lives for as long as a writer refers to it.
        lock = self._writing.setdefault(key, asyncio.Lock())
        async with within_budget(key):
            await lock.acquire()
        try:
            note_write()  # not before the turn: until then nothing was sent
            yield
        finally:
            lock.release()

    async def _send_once(self, key: str, body: bytes, content_type: str, etag: str | None) -> str:
        if fits(self._prefix + key, len(body)):
            if etag is None:
                return await self._small.create(self._prefix + key, body, content_type, display_key=key)
            return await self._small.replace(self._prefix + key, body, content_type, display_key=key, etag=etag)

        def write() -> str:
            condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
            answer = self._writer.put_object(
                **self._at(key),
                Body=body,
                ContentType=content_type,
                **condition,  # type: ignore[arg-type]  # the stubs type each keyword alone
            )
            return unquoted(answer["ETag"])

        return await self._call(write, key)

    async def _settle(self, key: str, body: bytes, unclear: StorageError) -> str:
        """Decide an unclear write by reading the object back."""
        try:
            present = await self.get(key)
        except ObjectNotFound:
            raise unclear from None  # the write may still arrive, so it is not reported as lost
        if present.body == body:
            return present.head.etag
        raise PreconditionFailed(key)

    # Plumbing.

    @asynccontextmanager
    async def _absence_named(self, key: str) -> AsyncIterator[None]:
        """Let a GET decide if a HEAD of `key` reports that there is no object. A copy begins with one."""
        try:
            yield
        except AbsenceUnclear:
            await self.get_range(key, 0, 1)  # raises ObjectNotFound if S3 names that as the reason
            raise

    def _at(self, key: str) -> Any:
        return {"Bucket": self._config.bucket, "Key": self._prefix + key}

    def _read_whole(self, key: str, **options: str) -> tuple[Any, bytes]:
        """Read a whole object again if its body breaks off."""
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        # The SDK repeats a request only up to its headers.
        for last in (*(False for _ in range(self._config.attempts - 1)), True):
            answer = self._reader.get_object(**self._at(key), **options)  # type: ignore[arg-type]  # a keyword of it
            try:
                return answer, answer["Body"].read()
            except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                if last:
                    raise
        raise AssertionError("the last attempt returns or raises")  # pragma: no cover

    async def _call(self, request: Callable[[], T], key: str) -> T:
        with translated(key):
            return await self._threads.run(request, key)

    def _delete_batch(self, keys: tuple[str, ...]) -> None:
        for key in filter(_NOT_IN_XML.search, keys):
            self._reader.delete_object(**self._at(key))  # its key is in the URL
        objects = [{"Key": self._prefix + key} for key in keys if not _NOT_IN_XML.search(key)]
        if not objects:
            return
        answer = self._reader.delete_objects(Bucket=self._config.bucket, Delete={"Objects": objects, "Quiet": True})  # type: ignore[typeddict-item]
        for failed in answer.get("Errors", ()):
            raise of_entry(failed.get("Code", ""), failed.get("Key", "").removeprefix(self._prefix))

    @property
    def _writer(self) -> "S3Client":
        return self._client("writer", attempts=1)

    @property
    def _reader(self) -> "S3Client":
        return self._client("reader", attempts=self._config.attempts)

    @property
    def _transfer(self) -> "S3Client":
        return self._client("transfer", attempts=self._config.attempts)

    def _client(self, role: str, *, attempts: int) -> "S3Client":
        with self._making:  # several threads of the pool may create it
            if role not in self._clients:
                self._clients[role] = make_client(self._config, attempts, self._config.endpoint_url)
                read_keys_quickly(self._clients[role])
                refuse_foreign_answers(self._clients[role])
            return self._clients[role]


def _page_of(answer: Any, root: str, prefix: str, after: str) -> KeyPage:
    """Return the page of a LIST's answer.

    Raises `StorageUnavailable` for one that is no list, as of a proxy, or not the one that was asked for: its reader
    would fail in some way of its own, or list without an end.
    """
    if "IsTruncated" not in answer:
        raise StorageUnavailable(f"{prefix}: the answer is not a list of keys")
    # Each once: a reader that takes up what is listed would take it up twice.
    keys = tuple(dict.fromkeys(key.removeprefix(root) for key in keys_of(answer)))
    if not all(key.startswith(prefix) and key > after for key in keys):
        raise StorageUnavailable(f"{prefix}: the list has keys that were not asked for")
    return KeyPage(keys, answer["IsTruncated"], date_of(answer))


def _head(key: str, answer: Any, size: int) -> ObjectHead:
    return ObjectHead(
        key,
        unquoted(answer["ETag"]),
        size,
        answer.get("ContentType", "application/octet-stream"),
        answer["LastModified"],
    )


def _size_of(path: Path) -> int:
    """Return a file's size, 0 if it cannot be read: the upload then raises the error."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
