"""The bytes that each tenant has sent today: one small object per tenant, exact because of conditional writes."""

from datetime import datetime, timedelta

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.bucket.records import Model, commit, compare_and_swap, read_as
from storage.clock import Clock
from storage.errors import ObjectNotFound


class Spent(Model):
    """The content of bytes.json. `day` is a UTC date."""

    day: str
    size_bytes: int
    nonce: str = ""


class ByteLedger:
    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock

    async def charge(self, tenant: str, size_bytes: int, *, limit: int) -> bool:
        """Charge the bytes; return False, and charge nothing, if the day's total would exceed `limit`."""
        return await self._change(tenant, size_bytes, limit)

    async def give_back(self, tenant: str, size_bytes: int) -> None:
        """Refund charged bytes. A refund after midnight has no effect."""
        await self._change(tenant, -size_bytes, None)

    async def _change(self, tenant: str, size_bytes: int, limit: int | None) -> bool:
        key = keys.byte_ledger(tenant)

        async def write(found: tuple[Spent | None, str | None]) -> bool:
            spent, etag = found
            charged = self._after(spent, size_bytes)
            if limit is not None and charged.size_bytes > limit:
                return False
            await commit(self._objects, key, charged, etag=etag)
            return True

        return await compare_and_swap(f"the ledger of {tenant}", lambda: self._read(key), write)

    def seconds_to_midnight(self) -> int:
        """Return the seconds until the next UTC day, at least 1."""
        now = self._clock.now()
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), now.tzinfo)
        return max(1, round((midnight - now).total_seconds()))

    def _after(self, spent: Spent | None, size_bytes: int) -> Spent:
        """Return the record after a charge."""
        # The later day counts: a process with a slow clock must not reset the count to the previous day.
        today = self._clock.now().date().isoformat()
        day, before = today, 0
        if spent is not None and spent.day >= today:
            day, before = spent.day, spent.size_bytes
        # A refund of the day before must not make the new day's count negative.
        return Spent(day=day, size_bytes=max(0, before + size_bytes))

    async def _read(self, key: str) -> tuple[Spent | None, str | None]:
        try:
            stored = await self._objects.get(key)
        except ObjectNotFound:
            return None, None
        return read_as(Spent, key, stored.body), stored.head.etag
