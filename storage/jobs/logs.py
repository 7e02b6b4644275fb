"""What the engine said during an attempt, as plain text beside the job. Written by its worker alone, at intervals."""

from collections.abc import Sequence

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.errors import LogNotFound, ObjectNotFound

CONTENT_TYPE = "text/plain; charset=utf-8"


class LogStore:
    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def write(self, tenant: str, job_id: str, attempt: int, lines: Sequence[str]) -> None:
        """The attempt's whole log so far; each attempt has a log of its own, so that none writes over another's."""
        body = "".join(f"{line}\n" for line in lines).encode()
        await self._objects.put(keys.log(tenant, job_id, attempt), body, content_type=CONTENT_TYPE)

    async def read(self, tenant: str, job_id: str, attempt: int) -> str:
        """`LogNotFound` where the attempt wrote none."""
        try:
            return (await self._objects.get(keys.log(tenant, job_id, attempt))).body.decode()
        except ObjectNotFound:
            raise LogNotFound(f"attempt {attempt} of job {job_id} has no log") from None

    async def tail(self, tenant: str, job_id: str, attempt: int, lines: int) -> tuple[str, ...] | None:
        """The last lines; None where the attempt wrote none."""
        try:
            return tuple((await self.read(tenant, job_id, attempt)).splitlines()[-lines:])
        except LogNotFound:
            return None
