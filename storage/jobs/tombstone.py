"""What stands in the place of a record that was removed, so that no late writer brings it back."""

from datetime import datetime, timedelta

from storage import keys
from storage.bucket.objects import ObjectStore, all_keys
from storage.errors import ObjectNotFound
from storage.value import Value

LIFE = timedelta(days=30)
"""So long one is told that a thing was removed; afterwards it is unknown."""


class Tombstone(Value):
    """`gone_at` comes first: by it a tombstone's bytes are told from a record's. `hints` are still to be removed."""

    gone_at: datetime
    hints: tuple[str, ...] = ()

    @classmethod
    def parse(cls, body: bytes) -> "Tombstone | None":
        """None if the bytes are a record's."""
        return cls.model_validate_json(body) if body.startswith(b'{"gone_at"') else None

    def to_json(self) -> bytes:
        return self.model_dump_json().encode()

    @property
    def ends_at(self) -> datetime:
        return self.gone_at + LIFE


async def clear(objects: ObjectStore, record_key: str, now: datetime) -> datetime | None:
    """Remove everything beside a tombstone, and at the end of its life itself.

    Returns when to look again, None if nothing is left. Idempotent; a late writer's objects go at the second look.
    """
    try:
        tombstone = Tombstone.parse((await objects.get(record_key)).body)
    except ObjectNotFound:
        return None
    if tombstone is None:
        return None
    await _empty(objects, record_key)
    await objects.delete(*tombstone.hints)
    if now < tombstone.ends_at:
        return tombstone.ends_at
    await objects.delete(record_key)
    return None


async def _empty(objects: ObjectStore, record_key: str) -> None:
    async for page in all_keys(objects, keys.folder(record_key)):
        await objects.delete(*(key for key in page if key != record_key))
