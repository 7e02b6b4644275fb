"""Conditional writes of records, and the one loop that repeats them while other writers are first.

A record's body carries a nonce, so that the store recognises its own write after an answer was lost.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import BaseModel

from storage.bucket.objects import ObjectStore
from storage.errors import PreconditionFailed, StorageUnavailable

CAS_ATTEMPTS = 20
"""Lost races before a writer gives up; the record then changes more often than a bucket can be written."""
FIRST_BACKOFF_S = 0.02
MAX_BACKOFF_S = 0.5
"""The wait after a lost race is random, up to a bound that doubles from the first to the second of these."""

R = TypeVar("R", bound=BaseModel)
S = TypeVar("S")
T = TypeVar("T")


def new_nonce() -> str:
    return secrets.token_hex(8)


async def commit(objects: ObjectStore, key: str, record: R, *, etag: str | None) -> tuple[R, str]:
    """Over exactly the version with this ETag, or create it (None); returns what was written, and its ETag.

    `record` has a field `nonce`, which is set anew. `PreconditionFailed` if another writer was first.
    """
    stamped = record.model_copy(update={"nonce": new_nonce()})
    body = stamped.model_dump_json().encode()
    if etag is None:
        return stamped, await objects.create(key, body)
    return stamped, await objects.replace(key, body, etag=etag)


async def compare_and_swap(
    what: str, read: Callable[[], Awaitable[S]], write: Callable[[S], Awaitable[T]], *, at_hand: S | None = None
) -> T:
    """Reads and writes until no other writer was first in between; returns what `write` returned.

    `write` gets what was read and commits on the condition that it still holds, or returns without a commit.
    `at_hand` is a version that saves the first read. Raises whatever the two raise except `PreconditionFailed`, and
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
