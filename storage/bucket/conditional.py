"""The conditional write of a record: its body carries a nonce, so that the store knows its own write again."""

import secrets
from typing import TypeVar

from pydantic import BaseModel

from storage.bucket.objects import ObjectStore

R = TypeVar("R", bound=BaseModel)


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
