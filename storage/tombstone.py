"""Tombstones, which replace removed records so that no late writer can recreate them."""

from datetime import datetime, timedelta

from storage import keys
from storage.bucket.objects import ObjectStore, all_keys, confirm_absence
from storage.bucket.records import Model, read_as
from storage.errors import ObjectNotFound
from storage.timers import SHARED_NONCE, Kind, Timer

LIFE = timedelta(days=30)
"""How long the API reports a removed record as gone; afterwards it is unknown."""


class Tombstone(Model):
    """The content that replaces a removed record. `index_keys` are still to be deleted."""

    # The first field distinguishes the bytes of a tombstone from those of a record.

    gone_at: datetime
    index_keys: tuple[str, ...] = ()

    @classmethod
    def parse(cls, key: str, body: bytes) -> "Tombstone | None":
        """Parse a tombstone; return None if the bytes are a record's. Raises `RecordUnreadable`."""
        return read_as(cls, key, body) if body.startswith(b'{"gone_at"') else None

    def to_json(self) -> bytes:
        return self.model_dump_json().encode()

    @property
    def ends_at(self) -> datetime:
        return self.gone_at + LIFE


async def collect_garbage(objects: ObjectStore, record_key: str, timer: Timer, now: datetime) -> Timer | None:
    """Delete the objects that belong to a tombstone, and the tombstone itself once it has expired.

    Returns the timer of its expiry, None if nothing is left. The call is idempotent. `timer` is a timer of the removed
    record.
    """
    try:
        tombstone = Tombstone.parse(record_key, (await objects.get(record_key)).body)
    except ObjectNotFound:
        await confirm_absence(objects, record_key)  # it would keep what is left without a timer
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
    """Return the timer of a tombstone's expiry."""
    # The fixed nonce gives every process the same key, so that the timer exists once.
    return Timer(tombstone.ends_at, kind, tenant, record_id, tombstone.gone_at, SHARED_NONCE)
