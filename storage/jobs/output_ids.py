"""`OutputId`: names one output of one attempt of a job. It says where the output is stored, so no object maps it."""

import re
from dataclasses import dataclass
from typing import Self

from storage.jobs.models import Output
from storage.jobs.record import JobRecord

_ID = re.compile(r"(?P<job_id>[0-9a-f-]{36})\.(?P<attempt>[1-9]\d{0,8})\.(?P<position>0|[1-9]\d{0,8})", re.ASCII)
_KEY = re.compile(r"/outputs/(?P<attempt>\d{3,9})/(?P<position>\d{4,9})/[^/]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class OutputId:
    """Written `<job_id>.<attempt>.<position>`, in one way only.

    The position is that of the output's key, which stays the same while the attempt adds outputs in any order.
    """

    job_id: str
    attempt: int
    position: int

    def __str__(self) -> str:
        return f"{self.job_id}.{self.attempt}.{self.position}"

    @classmethod
    def of(cls, job_id: str, output: Output) -> Self:
        match = _KEY.search(output.key)
        if match is None:
            raise ValueError(f"not the key of an output: {output.key!r}")
        return cls(job_id, int(match["attempt"]), int(match["position"]))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an id. Raises ValueError for text that is none."""
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError(f"not the id of an output: {text[:100]!r}")
        return cls(match["job_id"], int(match["attempt"]), int(match["position"]))

    def find(self, record: JobRecord) -> Output | None:
        """Return the output of the record with this id; None for one of an earlier attempt, and any other."""
        return next((one for one in record.outputs if OutputId.of(record.job_id, one) == self), None)
