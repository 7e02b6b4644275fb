"""The daily byte quota of a tenant, charged before the bytes are accepted."""

import logging

from app.problems import Problem
from app.services import Services
from storage.errors import StorageError

logger = logging.getLogger(__name__)


class ByteQuota:
    """The byte quota of one tenant. Without a configured quota no method sends a bucket request."""

    def __init__(self, services: Services, tenant: str) -> None:
        self._ledger = services.stores.byte_ledger
        self._limit = services.config.max_upload_bytes_a_day
        self._tenant = tenant

    async def charge(self, size_bytes: int) -> None:
        """Charge the bytes of a request's files or of an announced upload. Raises `Problem` beyond the quota."""
        if not await self.has_charged(size_bytes):
            raise self.refusal(size_bytes)

    async def has_charged(self, size_bytes: int) -> bool:
        """Charge the bytes. Returns False and charges nothing if they would exceed the quota."""
        if self._limit is None or not size_bytes:
            return True
        return await self._ledger.charge(self._tenant, size_bytes, limit=self._limit)

    def refusal(self, size_bytes: int) -> Problem:
        if self._limit is not None and size_bytes > self._limit:  # no later day has room for it
            detail = f"{size_bytes} bytes are more than the {self._limit} that are allowed on a whole day"
            return Problem("too-many-bytes", detail, hint="send fewer bytes in one request")
        detail = f"{size_bytes} bytes more would exceed the {self._limit} of a day, which ends at midnight UTC"
        return Problem("too-many-bytes", detail, headers={"Retry-After": str(self._ledger.seconds_to_midnight())})

    async def give_back(self, size_bytes: int) -> None:
        """Refund bytes that were charged and not received. A storage failure is logged and not raised."""
        if self._limit is None or not size_bytes:
            return
        try:
            await self._ledger.give_back(self._tenant, size_bytes)
        except StorageError:  # the ledger resets at midnight UTC, so a lost refund costs the tenant one day at most
            logger.warning("%d bytes were not given back to %s", size_bytes, self._tenant, exc_info=True)
