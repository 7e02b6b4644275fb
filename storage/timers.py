"""Timers: the objects that bring the reaper back to a record although nothing happens to it.

    timers/active/<due ms>-<kind>-<id>-<armed ms>-<nonce>-<tenant>     of what may still change, soonest first
    timers/retained/…                                                  of what waits for its removal

A record names its current timer, and that timer's object exists until the record is gone: it is written before the
commit that names it, and deleted after the commit that names another. Everything else that leads to a record is an
index (`storage.index_keys`), which the timer's handler rebuilds.

A timer may be early, never late: a handler that finds nothing due keeps it. The nonce makes every key unique, so that
a late deletion of one timer cannot hit another.
"""

import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, Self

from storage.keys import check_segment
from storage.times import ms_of, ms_up_of, time_of

Kind = Literal["job", "batch", "upload", "key", "test", "endpoint"]

Lane = Literal["active", "retained"]
"""Each lane is swept for itself, so that many removals do not delay the recovery of a lost job."""

LANES: tuple[Lane, ...] = ("active", "retained")

TOMBSTONE_NONCE = "0" * 8
"""Every handler that finds a tombstone arms the same timer for its end."""

_KEY = re.compile(
    r"timers/(?P<lane>active|retained)/(?P<due>\d{13})-(?P<kind>job|batch|upload|key|test|endpoint)-(?P<id>[0-9a-f-]{16,64})"
    r"-(?P<armed>\d{13})-(?P<nonce>[0-9a-f]{8})-(?P<tenant>[^/]+)"
)


@dataclass(frozen=True, slots=True)
class Timer:
    """`armed_at` is when it was made; for the first timer of a job or batch, when that was created."""

    due: datetime
    kind: Kind
    tenant: str
    id: str
    armed_at: datetime
    nonce: str
    lane: Lane = "retained"

    @classmethod
    def new(
        cls, due: datetime, kind: Kind, tenant: str, record_id: str, *, armed_at: datetime, lane: Lane = "retained"
    ) -> Self:
        return cls(due, kind, tenant, record_id, armed_at, secrets.token_hex(4), lane)

    @property
    def key(self) -> str:
        """`due` is rounded up to milliseconds, so that a record whose time counts in microseconds is due as well."""
        about = f"{self.kind}-{self.id}-{ms_of(self.armed_at):013d}-{self.nonce}-{check_segment(self.tenant)}"
        return f"{lane_prefix(self.lane)}{ms_up_of(self.due):013d}-{about}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """ValueError for any other key."""
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"not a timer: {key!r}")
        return cls(
            due=time_of(int(match["due"])),
            kind=match["kind"],  # type: ignore[arg-type]  # the expression lists the kinds
            tenant=match["tenant"],
            id=match["id"],
            armed_at=time_of(int(match["armed"])),
            nonce=match["nonce"],
            lane=match["lane"],  # type: ignore[arg-type]  # as the kinds
        )


def lane_prefix(lane: Lane) -> str:
    return f"timers/{lane}/"


class TimerHandler(Protocol):
    """Reconciles one kind of record with its index keys, and does what is due."""

    async def on_due(self, timer: Timer) -> Timer | None:
        """The timer to wait for instead: None if there is none, `timer` itself to be called again by the next sweep.

        `PreconditionFailed` if the record changes at this very moment; the timer then stays.
        """
        ...
