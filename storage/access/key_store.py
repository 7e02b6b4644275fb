"""Who may come in: one record a key, which holds the key's hash and never the key.

A record is found by its kid with one GET and is believed for `CACHE_LIFE`, as is its absence: so every process refuses
a revoked key soon after, and a key that does not exist costs no request each time. Both are bounded, and apart from
each other: kids that somebody invents push no real key out. Nor do they cost a request each: where many are looked up,
one LIST in `LIST_LIFE` tells which kids there are, and only those are asked for.
"""

import asyncio
import hmac
import logging
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from storage import keys
from storage._cache import ShortLived
from storage.access.api_keys import is_kid, new_key, new_kid, parse_key, sha256_of
from storage.bucket.budget import within_budget
from storage.bucket.conditional import commit, compare_and_swap, new_nonce
from storage.bucket.objects import ObjectStore, StoredObject, all_keys
from storage.clock import Clock
from storage.concurrency import map_bounded
from storage.errors import KeyNotFound, ObjectNotFound, RecordUnreadable
from storage.model import Model, read_as
from workflows.policy import GraphTrust

logger = logging.getLogger(__name__)

CACHE_LIFE = timedelta(seconds=30)
"""A revoked key is refused everywhere after this and the time that one GET may take: within a minute."""
MOST_LOOKUPS = 50
"""So many in `LIST_LIFE` need no list."""
LIST_LIFE = timedelta(seconds=10)
"""A key that is made while strangers flood a process with invented ones gets in after this."""
TENANTS_LIFE = timedelta(seconds=5)
"""How long an answer about other tenants' keys is believed."""
TENANTS_PAGE = 100
"""Most often one of the first keys is another tenant's, and the others need not be read."""
LONGEST_NAME = 100

KeyScope = Literal["jobs:read", "jobs:write", "admin"]
SCOPES: tuple[KeyScope, ...] = ("jobs:read", "jobs:write", "admin")
DEFAULT_SCOPES: tuple[KeyScope, ...] = ("jobs:read", "jobs:write")

_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_NO_HASH = "0" * 64
"""Compared with where there is no record: an unknown kid takes the time of a wrong secret."""


def check_tenant(name: str) -> str:
    """A tenant's name as it may be chosen; ValueError otherwise. It becomes a folder of the bucket."""
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
    """The rules for the graphs that come with this key; None leaves it to the deployment's setting."""
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
    """A new key, which nothing keeps, and its record. ValueError for what a record cannot hold."""
    kid = new_kid()
    key = new_key(kid)
    record = KeyRecord(
        kid=kid,
        tenant=tenant,
        scopes=tuple(scope for scope in SCOPES if scope in set(scopes)),
        sha256=sha256_of(key),
        created_at=now,
        expires_at=expires_at,
        name=name,
        graphs=graphs,
        nonce=new_nonce(),
    )
    return key, record


class ApiKeyStore:
    """`fixed` are records that the settings bring: they need no request, and are revoked there."""

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
        self._known: ShortLived[KeyRecord] = ShortLived(clock, life=cache_life)
        self._unknown: ShortLived[None] = ShortLived(clock, life=cache_life)
        self._others: ShortLived[bool] = ShortLived(clock, life=TENANTS_LIFE)
        self._looked: tuple[datetime, int] = (clock.now(), 0)
        self._kids: tuple[datetime, frozenset[str]] | None = None
        self._listing = asyncio.Lock()

    async def authenticate(self, text: str) -> KeyRecord | None:
        """Whose key this is; None for every text that is no live key, whatever is wrong with it.

        Errors of the bucket are raised: who cannot be looked up does not come in.
        """
        presented = parse_key(text)
        if presented is None:
            return None
        record = await self._find(presented.kid)
        fits = hmac.compare_digest(presented.sha256, _NO_HASH if record is None else record.sha256)
        if record is None or not fits:
            return None
        if not record.is_live(self._clock.now()):
            logger.info(
                "an expired or revoked API key was presented", extra={"kid": record.kid, "tenant": record.tenant}
            )
            return None
        return record

    async def add(self, record: KeyRecord) -> None:
        """`PreconditionFailed` if there is a key of this kid: make another one."""
        await self._objects.create(keys.api_key(record.kid), record.model_dump_json().encode())

    async def all(self) -> list[KeyRecord]:
        """Those of the bucket, oldest first; unreadable ones are left out, and told of in the log."""
        found: list[KeyRecord] = []
        async for page in all_keys(self._objects, keys.API_KEYS):
            found += [record for record in await map_bounded(page, self._listed) if record is not None]
        return sorted(found, key=lambda record: (record.created_at, record.kid))

    async def has_other_tenant(self, tenant: str) -> bool:
        """Whether a tenant besides this one has a live key, as it was at most `TENANTS_LIFE` ago."""
        if (known := self._others.get(tenant)) is not None:
            return known[0]
        found = any(self._is_others(record, tenant) for record in self._fixed.values()) or await self._lists_other(
            tenant
        )
        self._others.put(tenant, found)
        return found

    async def revoke(self, kid: str) -> KeyRecord:
        """The record, revoked for good. `KeyNotFound` for one that the bucket does not have."""

        async def write(stored: StoredObject | None) -> KeyRecord:
            if stored is None:
                raise KeyNotFound(kid)
            record = read_as(KeyRecord, stored.head.key, stored.body)
            if record.revoked_at is not None:
                return record
            revoked = record.model_copy(update={"revoked_at": self._clock.now()})
            return (await commit(self._objects, stored.head.key, revoked, etag=stored.head.etag))[0]

        return await compare_and_swap(f"key {kid}", lambda: self._get(kid), write)

    async def _lists_other(self, tenant: str) -> bool:
        async for page in all_keys(self._objects, keys.API_KEYS, page=TENANTS_PAGE):
            found = await map_bounded(page, self._believed)
            if any(self._is_others(record, tenant) for record in found if record is not None):
                return True
        return False

    def _is_others(self, record: KeyRecord, tenant: str) -> bool:
        return record.tenant != tenant and record.is_live(self._clock.now())

    async def _believed(self, key: str) -> KeyRecord | None:
        """The record of a listed key: from memory if that is fresh."""
        kid = key.removeprefix(keys.API_KEYS).removesuffix(".json")
        if (cached := self._known.get(kid)) is not None:
            return cached[0]
        record = await self._listed(key)
        if record is not None and record.kid == kid:
            self._known.put(kid, record)
        return record

    async def _find(self, kid: str) -> KeyRecord | None:
        if kid in self._fixed:
            return self._fixed[kid]
        if (cached := self._known.get(kid)) is not None:
            return cached[0]
        if self._unknown.get(kid) is not None:
            return None
        if self._looks_too_often() and kid not in await self._listed_kids():
            return None
        stored = await self._get(kid)
        record = None if stored is None else _readable(stored)
        if record is None or record.kid != kid:
            self._unknown.put(kid, None)
            return None
        self._known.put(kid, record)
        return record

    def _looks_too_often(self) -> bool:
        since, looked = self._looked
        now = self._clock.now()
        self._looked = (now, 1) if now - since >= LIST_LIFE else (since, looked + 1)
        return self._looked[1] > MOST_LOOKUPS

    async def _listed_kids(self) -> frozenset[str]:
        """As they were at most `LIST_LIFE` ago."""
        async with within_budget(keys.API_KEYS), self._listing:
            if self._kids is None or self._clock.now() - self._kids[0] >= LIST_LIFE:
                found = set[str]()
                after, more, asked_at = "", True, self._clock.now()
                while more:
                    page = await self._objects.list(keys.API_KEYS, after=after)
                    found |= {key.removeprefix(keys.API_KEYS).removesuffix(".json") for key in page.keys}
                    after, more = page.keys[-1] if page.keys else "", page.more
                self._kids = asked_at, frozenset(found)
            return self._kids[1]

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
    """A record that this version cannot read lets nobody in."""
    try:
        return read_as(KeyRecord, stored.head.key, stored.body)
    except RecordUnreadable as error:
        logger.warning("a key is left out: %s", error)
        return None
