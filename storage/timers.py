"""Timers: objects that make the reaper act on a record at a given time.

    timers/active/<due ms>-<kind>-<id>-<armed ms>-<nonce>-<tenant>     of records that may still change, soonest first
    timers/retained/…                                                  of records that wait for their removal

A record names its current timer, whose object exists until the record is removed: it is written before the commit that
names it, and deleted after the commit that names another. All other keys of a record are an index
(`storage.index_keys`), which the timer's handler rebuilds.

A timer may be early, never late: a handler that finds nothing due keeps it. The nonce makes every key unique, so that
a late deletion of one timer cannot hit another.
"""

import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, Self

from storage.keys import check_segment, ms_of, ms_up_of, time_of

Kind = Literal["job", "batch", "upload", "key", "test", "endpoint", "asset"]

Lane = Literal["active", "retained"]
"""The lanes are swept separately, so that many removals do not delay the recovery of a lost job."""

LANES: tuple[Lane, ...] = ("active", "retained")

SHARED_NONCE = "0" * 8
"""The fixed nonce of a timer that several processes write, so that all write the same key."""

_KEY = re.compile(
    r"timers/(?P<lane>active|retained)/(?P<due>\d{13})-(?P<kind>job|batch|upload|key|test|endpoint|asset)-(?P<id>[0-9a-f-]{16,64})"
    r"-(?P<armed>\d{13})-(?P<nonce>[0-9a-f]{8})-(?P<tenant>[^/]+)"
)


@dataclass(frozen=True, slots=True)
class Timer:
    """`armed_at` is when the timer was created; for the first timer of a job or batch, when that was created."""

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
        """The timer's key, with `due` rounded up to milliseconds."""
        # Rounded down, a timer could fire before its record, whose time is in microseconds, is due.
        about = f"{self.kind}-{self.id}-{ms_of(self.armed_at):013d}-{self.nonce}-{check_segment(self.tenant)}"
        return f"{lane_prefix(self.lane)}{ms_up_of(self.due):013d}-{about}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """Parse a timer's key. Raises ValueError for any other key."""
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
    """Reconciles one kind of record with its index keys and acts on what is due."""

    async def on_due(self, timer: Timer) -> Timer | None:
        """Act on a due timer and return its replacement: None for none, `timer` itself to be called at the next sweep.

        Raises `PreconditionFailed` if the record changes at the same time; the timer is then kept.
        """
        ...
