"""Stored JSON records: their base class, and conditional writes.

Loops repeat a write while other writers are first, or while the bucket is unavailable or refuses it.

A record's body carries a nonce, so that the store recognises its own write after a lost response.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from storage.bucket.objects import ObjectStore
from storage.errors import PreconditionFailed, RecordUnreadable, StorageRefused, StorageUnavailable

CAS_ATTEMPTS = 20
"""Lost races after which a writer gives up, because the record changes faster than the bucket can be written."""
FIRST_BACKOFF_S = 0.02
MAX_BACKOFF_S = 0.5
"""The delay after a lost race is random, up to a bound that doubles from the first to the second of these."""
RETRY_FOR_S = 120.0
"""Seconds for which a worker repeats what the bucket refuses or does not answer, so that no GPU's results are lost."""

LONGEST_ENGINE_TEXT = 512

R = TypeVar("R", bound=BaseModel)
S = TypeVar("S")
T = TypeVar("T")


def _cut(text: str) -> str:
    return text[:LONGEST_ENGINE_TEXT]


EngineText = Annotated[str, AfterValidator(_cut)]
"""A name or an id that an engine reports. A node's code can make it report anything, and every GET, list and event
reads whole records, so it is cut."""


class Model(BaseModel):
    """Base of all stored JSON records."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read_as(model: type[R], key: str, body: bytes) -> R:
    """Parse the record of `key`. Raises `RecordUnreadable`."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        # The error names the key and omits the content: a record may hold secrets.
        raise RecordUnreadable(f"{key} cannot be read by this version ({error.error_count()} errors)") from None


def new_nonce() -> str:
    return secrets.token_hex(8)


async def commit(objects: ObjectStore, key: str, record: R, *, etag: str | None) -> tuple[R, str]:
    """Write the record over the version with this ETag, or create it (None); return the written record and its ETag.

    `record` has a field `nonce`, which gets a new value. Raises `PreconditionFailed` if another writer was first.
    """
    # New for each try: a body that is read back must belong to exactly this write.
    stamped = record.model_copy(update={"nonce": new_nonce()})
    body = stamped.model_dump_json().encode()
    if etag is None:
        return stamped, await objects.create(key, body)
    return stamped, await objects.replace(key, body, etag=etag)


async def compare_and_swap(
    what: str, read: Callable[[], Awaitable[S]], write: Callable[[S], Awaitable[T]], *, at_hand: S | None = None
) -> T:
    """Repeat `read` and `write` until no other writer was first in between; return the result of `write`.

    `write` gets the version that was read and commits over exactly it, or returns without a commit. `at_hand` is a
    version that replaces the first read. Errors of both are passed on except `PreconditionFailed`. Raises
    `StorageUnavailable`, which names `what`, after `CAS_ATTEMPTS` lost races.
    """
    for lost in range(CAS_ATTEMPTS):
        found = at_hand if lost == 0 and at_hand is not None else await read()
        try:
            return await write(found)
        except PreconditionFailed:
            most = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**lost)
            await asyncio.sleep(random.uniform(0, most))  # noqa: S311  spreads load, guards nothing
    raise StorageUnavailable(f"{what} changes too fast to be written")


async def retry_while_unavailable(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat `call` with backoff while the bucket is unavailable or refuses it.

    Raises the last `StorageUnavailable` or `StorageRefused` after `RETRY_FOR_S`.
    """
    import stamina  # workers alone retry

    # A refusal may be short too: of a quota that is reached, or of a policy or a key that is being changed.
    repeated = (StorageUnavailable, StorageRefused)
    async for attempt in stamina.retry_context(on=repeated, attempts=None, timeout=RETRY_FOR_S):
        with attempt:
            return await call()
    raise AssertionError("retry_context returns or raises")  # pragma: no cover
