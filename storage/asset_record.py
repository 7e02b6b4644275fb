"""`AssetRecord`: a named reference to the bytes of an upload, and the index keys that follow from it."""

import hashlib
from datetime import datetime, timedelta

from storage import keys
from storage.bucket.objects import ObjectStore, confirm_absence
from storage.bucket.records import Model, read_as
from storage.errors import ObjectNotFound

SETTLING = timedelta(hours=1)
"""How long the bytes outlive an asset. It exceeds the time between a request's check of an asset and the moment when
what it makes, a job or another asset of the same bytes, holds them."""


class AssetRecord(Model):
    """The content of asset.json. Only `expires_at` and `gone_at` ever change, by conditional writes."""

    tenant: str
    asset_id: str
    hash: str
    """The BLAKE3 hash of the bytes in hex."""
    file_path: str
    """The name by which graphs find the asset. Any text: it is never part of a key or of a path on a disk."""
    content_type: str
    size_bytes: int
    upload_id: str
    """The upload that has the bytes. Several assets may share one."""
    tags: tuple[str, ...] = ()
    created_at: datetime
    expires_at: datetime
    gone_at: datetime | None = None
    """When the asset was deleted on request."""
    nonce: str = ""

    @property
    def ends_at(self) -> datetime:
        return self.expires_at if self.gone_at is None else min(self.gone_at, self.expires_at)

    def is_live(self, now: datetime) -> bool:
        return now < self.ends_at

    @property
    def key(self) -> str:
        """The key of the bytes."""
        return keys.upload_data(self.tenant, self.upload_id)

    @property
    def index_keys(self) -> tuple[str, str]:
        """The entries by which the asset is found by its hash and by its name."""
        named = keys.ms_of(self.created_at)
        return (
            hash_prefix(self.tenant, self.hash, self.file_path) + self.asset_id,
            f"{name_prefix(self.tenant, self.file_path)}{keys.END_OF_TIME_MS - named:013d}-{self.asset_id}",
        )


def hash_prefix(tenant: str, digest: str, file_path: str | None = None) -> str:
    """Return the prefix of the assets with these bytes, or of those that have this name as well."""
    name = "" if file_path is None else f"{_digest(file_path)[:16]}-"
    return f"{keys.asset_hashes_prefix(tenant, digest)}{name}"


def name_prefix(tenant: str, file_path: str) -> str:
    """Return the prefix of the assets with this name, which sort newest first."""
    return keys.asset_names_prefix(tenant, _digest(file_path))


def id_of_entry(key: str) -> str:
    """Return the asset's id from one of its index keys."""
    return key[-36:]


async def read_asset(
    objects: ObjectStore, tenant: str, asset_id: str, *, confirmed: bool = False
) -> tuple[AssetRecord, str] | None:
    """Return the record, live or not, and its ETag; None if there is none.

    With `confirmed`, which is for deletions that follow from None, a LIST must not find it either.
    """
    try:
        key = keys.asset(tenant, asset_id)
    except ValueError:  # the id cannot be part of a key
        return None
    try:
        stored = await objects.get(key)
    except ObjectNotFound:
        if confirmed:
            await confirm_absence(objects, key)
        return None
    return read_as(AssetRecord, stored.head.key, stored.body), stored.head.etag


def _digest(file_path: str) -> str:
    return hashlib.sha256(file_path.encode()).hexdigest()
