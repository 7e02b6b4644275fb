"""The engine's log of each attempt, a plain text object that only the attempt's worker writes, at intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.errors import LogNotFound, ObjectNotFound

CONTENT_TYPE = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Log:
    """The log of an attempt, as it was at `written_at`."""

    text: str
    written_at: datetime


class LogStore:
    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def write(self, tenant: str, job_id: str, attempt: int, lines: Sequence[str]) -> None:
        """Write the attempt's whole log so far. Each attempt has its own log, so that none overwrites another's."""
        body = "".join(f"{line}\n" for line in lines).encode()
        await self._objects.put(keys.log(tenant, job_id, attempt), body, content_type=CONTENT_TYPE)

    async def read(self, tenant: str, job_id: str, attempt: int) -> str:
        """Return the text of the attempt's log. Raises `LogNotFound`."""
        return (await self.find(tenant, job_id, attempt)).text

    async def find(self, tenant: str, job_id: str, attempt: int) -> Log:
        """Return the attempt's log. Raises `LogNotFound`."""
        try:
            stored = await self._objects.get(keys.log(tenant, job_id, attempt))
            # Damaged bytes are replaced: the log is also read when a lost job is recovered.
            return Log(stored.body.decode(errors="replace"), stored.head.last_modified)
        except ObjectNotFound:
            raise LogNotFound(f"attempt {attempt} of job {job_id} has no log") from None

    async def tail(self, tenant: str, job_id: str, attempt: int, lines: int) -> tuple[str, ...] | None:
        """Return the last lines of the attempt's log; None if there is no log."""
        try:
            return tuple((await self.read(tenant, job_id, attempt)).splitlines()[-lines:])
        except LogNotFound:
            return None
