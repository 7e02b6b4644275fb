"""API keys: one record per key, which holds the key's hash and never the key.

A record is found by its kid with one GET, which requests at the same time share. Records and their absence are cached
for `CACHE_LIFE`, so every process soon refuses a revoked key, and an unknown key does not cost a request each time. The
two caches are bounded and separate, so invented kids evict no real key. Few lookups of kids that were never found run
or wait at a time, and the others do not queue behind them, so a flood of invented keys delays no key in use.
"""

import asyncio
import hmac
import logging
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal

from cachetools import LRUCache, TTLCache
from pydantic import AfterValidator, Field, StringConstraints

from storage import keys
from storage.access.api_keys import is_kid, new_key, new_kid, parse_key, sha256_of
from storage.bucket.budget import on_behalf_of, within_budget
from storage.bucket.objects import ObjectStore, StoredObject, all_keys
from storage.bucket.records import Model, commit, compare_and_swap, new_nonce, read_as
from storage.clock import Clock, expiring_cache
from storage.concurrency import map_bounded, retrieve
from storage.errors import KeyNotFound, LookupsBusy, ObjectNotFound, RecordUnreadable
from storage.fair_slots import FairSlots, NoSlot
from workflows.policy import GraphTrust

logger = logging.getLogger(__name__)

CACHE_LIFE = timedelta(seconds=30)
"""Cache lifetime of a record. With the time of one GET, a revoked key is refused everywhere within a minute."""
FIRST_LOOKUPS = 4
"""Concurrent lookups of kids that this process has not found before: half of the threads for small bucket calls."""
MOST_WAITING = 64
"""Further lookups of such kids that wait for one of these."""
MOST_FOUND = 10_000
"""Kids that are remembered as found. The least recently used one is forgotten, and is then looked up like a new one."""
FOUND_BEFORE = "keys found before"
"""The owner of lookups of known kids, with which they take turns at the bucket. No tenant's name has a space."""
TENANTS_LIFE = timedelta(seconds=5)
"""Cache lifetime of the answer whether other tenants have keys."""
TENANTS_PAGE = 100
"""Keys read at a time in the search for another tenant's, since it is usually among the first."""
LONGEST_NAME = 100

KeyScope = Literal["jobs:read", "jobs:write", "admin"]
SCOPES: tuple[KeyScope, ...] = ("jobs:read", "jobs:write", "admin")
DEFAULT_SCOPES: tuple[KeyScope, ...] = ("jobs:read", "jobs:write")

_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_NO_HASH = "0" * 64
"""Stands for the hash of a record that does not exist."""


def check_tenant(name: str) -> str:
    """Return a valid tenant name, which becomes a folder of the bucket. Raises ValueError."""
    if not _TENANT.fullmatch(name):
        raise ValueError("a tenant's name has 1 to 63 of a-z, 0-9 and `-`, and does not begin with `-`")
    return name


class KeyRecord(Model):
    """The content of api-keys/{kid}.json."""

    kid: Annotated[str, StringConstraints(pattern=r"^[a-z2-7]{8}$")]
    tenant: Annotated[str, AfterValidator(check_tenant)]
    scopes: tuple[KeyScope, ...]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    name: str | None = Field(None, max_length=LONGEST_NAME)
    graphs: GraphTrust | None = None
    """The rules for graphs submitted with this key; None means the deployment's setting."""
    nonce: str = ""

    def is_live(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def new_record(
    tenant: str,
    *,
    now: datetime,
    scopes: Iterable[KeyScope] = DEFAULT_SCOPES,
    expires_at: datetime | None = None,
    name: str | None = None,
    graphs: GraphTrust | None = None,
) -> tuple[str, KeyRecord]:
    """Return a new key, which is not stored, and its record. Raises ValueError for invalid fields."""
    kid = new_kid()
    key = new_key(kid)
    granted = set(scopes)
    record = KeyRecord(
        kid=kid,
        tenant=tenant,
        scopes=tuple(scope for scope in SCOPES if scope in granted),
        sha256=sha256_of(key),
        created_at=now,
        expires_at=expires_at,
        name=name,
        graphs=graphs,
        nonce=new_nonce(),
    )
    return key, record


class ApiKeyStore:
    """`fixed` has the records of the settings, which cost no request and are revoked in the settings."""

    def __init__(
        self,
        objects: ObjectStore,
        clock: Clock,
        *,
        fixed: Iterable[KeyRecord] = (),
        cache_life: timedelta = CACHE_LIFE,
    ) -> None:
        self._objects = objects
        self._clock = clock
        self._fixed: Mapping[str, KeyRecord] = {record.kid: record for record in fixed}
        self._known: TTLCache[str, KeyRecord] = expiring_cache(clock, cache_life)
        self._unknown: TTLCache[str, None] = expiring_cache(clock, cache_life)
        self._found: LRUCache[str, None] = LRUCache(MOST_FOUND)
        self._lookups: dict[str, asyncio.Task[KeyRecord | None]] = {}
        self._first_lookups = FairSlots(FIRST_LOOKUPS, max_waiting=MOST_WAITING)
        self._others: TTLCache[str, bool] = expiring_cache(clock, TENANTS_LIFE)

    async def authenticate(self, text: str) -> KeyRecord | None:
        """Return the record of a valid key; None for any other text.

        `LookupsBusy` and errors of the bucket are raised, so that a key that cannot be checked is not accepted.
        """
        presented = parse_key(text)
        if presented is None:
            return None
        record = await self._find(presented.kid)
        # Compared in any case, so that an unknown kid takes the same time as a wrong secret.
        fits = hmac.compare_digest(presented.sha256, _NO_HASH if record is None else record.sha256)
        if record is None or not fits:
            return None
        if not record.is_live(self._clock.now()):
            logger.info(
                "an expired or revoked API key was presented", extra={"kid": record.kid, "tenant": record.tenant}
            )
            return None
        return record

    async def live(self, kid: str) -> KeyRecord | None:
        """Return the record of a key that is neither expired nor revoked, looked up and cached as by `authenticate`."""
        record = await self._find(kid)
        return record if record is not None and record.is_live(self._clock.now()) else None

    async def add(self, record: KeyRecord) -> None:
        """Store a new record. Raises `PreconditionFailed` if the kid exists; generate another key then."""
        await self._objects.create(keys.api_key(record.kid), record.model_dump_json().encode())

    async def all(self) -> list[KeyRecord]:
        """Return the bucket's records, oldest first; unreadable ones are omitted and logged."""
        found: list[KeyRecord] = []
        async for page in all_keys(self._objects, keys.API_KEYS):
            found += [record for record in await map_bounded(page, self._listed) if record is not None]
        return sorted(found, key=lambda record: (record.created_at, record.kid))

    async def has_other_tenant(self, tenant: str) -> bool:
        """Whether a tenant other than this one has a valid key, as of at most `TENANTS_LIFE` ago."""
        if (known := self._others.get(tenant)) is not None:
            return known
        found = any(self._is_others(record, tenant) for record in self._fixed.values()) or await self._lists_other(
            tenant
        )
        self._others[tenant] = found
        return found

    async def remove(self, kids: Iterable[str]) -> None:
        """Delete the records of keys that have ended. They are refused as before, like keys that never existed."""
        await self._objects.delete(*map(keys.api_key, kids))

    async def revoke(self, kid: str, *, tenant: str | None = None) -> KeyRecord:
        """Revoke a key for good and return its record, for one GET and one PUT.

        Raises `KeyNotFound`, also for a key of another tenant than `tenant`; None means any tenant.
        """

        async def write(stored: StoredObject | None) -> KeyRecord:
            if stored is None:
                raise KeyNotFound(kid)
            record = read_as(KeyRecord, stored.head.key, stored.body)
            if tenant not in (None, record.tenant):
                raise KeyNotFound(kid)
            if record.revoked_at is not None:
                return record
            revoked = record.model_copy(update={"revoked_at": self._clock.now()})
            return (await commit(self._objects, stored.head.key, revoked, etag=stored.head.etag))[0]

        revoked = await compare_and_swap(f"key {kid}", lambda: self._get(kid), write)
        self._known.pop(kid, None)  # ends its use in this process at once, in others when their caches expire
        return revoked

    async def _lists_other(self, tenant: str) -> bool:
        async for page in all_keys(self._objects, keys.API_KEYS, page=TENANTS_PAGE):
            found = await map_bounded(page, self._believed)
            if any(self._is_others(record, tenant) for record in found if record is not None):
                return True
        return False

    def _is_others(self, record: KeyRecord, tenant: str) -> bool:
        return record.tenant != tenant and record.is_live(self._clock.now())

    async def _believed(self, key: str) -> KeyRecord | None:
        """Return the record of a listed key, from the cache if it is fresh."""
        kid = key.removeprefix(keys.API_KEYS).removesuffix(".json")
        if (cached := self._known.get(kid)) is not None:
            return cached
        record = await self._listed(key)
        if record is not None and record.kid == kid:
            self._known[kid] = record
            self._found[kid] = None
        return record

    async def _find(self, kid: str) -> KeyRecord | None:
        if kid in self._fixed:
            return self._fixed[kid]
        if (cached := self._known.get(kid)) is not None:
            return cached
        if kid in self._unknown:
            return None
        lookup = self._lookups.get(kid)
        if lookup is None:
            with on_behalf_of(FOUND_BEFORE if kid in self._found else ""):  # the task keeps this context
                lookup = asyncio.create_task(self._look_up(kid))
            self._lookups[kid] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop(kid))
            lookup.add_done_callback(retrieve)
        async with within_budget(f"key {kid}"):
            # Shielded: a client that disconnects cancels its own wait, not the lookup that others share.
            return await asyncio.shield(lookup)

    async def _look_up(self, kid: str) -> KeyRecord | None:
        if kid in self._found:
            return await self._read(kid)
        try:
            async with self._first_lookups.slot(""):
                return await self._read(kid)
        except NoSlot as error:
            raise LookupsBusy(f"key {kid}: {error}") from None

    async def _read(self, kid: str) -> KeyRecord | None:
        stored = await self._get(kid)
        record = None if stored is None else _readable(stored)
        if record is None or record.kid != kid:
            self._unknown[kid] = None
            self._found.pop(kid, None)
            return None
        self._known[kid] = record
        self._found[kid] = None
        return record

    async def _get(self, kid: str) -> StoredObject | None:
        if not is_kid(kid):
            return None
        try:
            return await self._objects.get(keys.api_key(kid))
        except ObjectNotFound:
            return None

    async def _listed(self, key: str) -> KeyRecord | None:
        try:
            return _readable(await self._objects.get(key))
        except ObjectNotFound:
            return None


def _readable(stored: StoredObject) -> KeyRecord | None:
    """Parse a record; return None, which refuses the key, if this version cannot read it."""
    try:
        return read_as(KeyRecord, stored.head.key, stored.body)
    except RecordUnreadable as error:
        logger.warning("a key is left out: %s", error)
        return None
