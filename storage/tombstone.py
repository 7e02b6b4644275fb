"""What stands in the place of a record that was removed, so that no late writer brings it back."""

from datetime import datetime, timedelta

from storage import keys
from storage.bucket.objects import ObjectStore, all_keys
from storage.errors import ObjectNotFound
from storage.model import Model
from storage.timers import TOMBSTONE_NONCE, Kind, Timer

LIFE = timedelta(days=30)
"""How long a client is told that a record was removed; afterwards it is unknown."""


class Tombstone(Model):
    """`gone_at` comes first: it tells a tombstone's bytes from a record's. `index_keys` are still to be deleted."""

    gone_at: datetime
    index_keys: tuple[str, ...] = ()

    @classmethod
    def parse(cls, body: bytes) -> "Tombstone | None":
        """None if the bytes are a record's."""
        return cls.model_validate_json(body) if body.startswith(b'{"gone_at"') else None

    def to_json(self) -> bytes:
        return self.model_dump_json().encode()

    @property
    def ends_at(self) -> datetime:
        return self.gone_at + LIFE


async def collect_garbage(objects: ObjectStore, record_key: str, timer: Timer, now: datetime) -> Timer | None:
    """Delete everything that belongs to a tombstone, and the tombstone itself at the end of its life.

    Returns the timer for that end, None if nothing is left. Idempotent. `timer` is one of the removed record.
    """
    try:
        tombstone = Tombstone.parse((await objects.get(record_key)).body)
    except ObjectNotFound:
        return None
    if tombstone is None:
        return None
    async for page in all_keys(objects, keys.folder(record_key)):
        await objects.delete(*(key for key in page if key != record_key))
    await objects.delete(*tombstone.index_keys)
    if now >= tombstone.ends_at:
        await objects.delete(record_key)
        return None
    return end_timer(tombstone, timer.kind, timer.tenant, timer.id)


def end_timer(tombstone: Tombstone, kind: Kind, tenant: str, record_id: str) -> Timer:
    """The same for everyone who finds the tombstone."""
    return Timer(tombstone.ends_at, kind, tenant, record_id, tombstone.gone_at, TOMBSTONE_NONCE)
