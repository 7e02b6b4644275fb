"""Bounds the delivery attempts in flight: in all, and of one tenant in all, at one host and at one receiver.

The bounds on hosts and receivers hold for each tenant by itself: tenants may share a receiver, and one that keeps it
busy must not delay the others' events for it. Tests of receivers have slots of their own, because a client waits for
the result of a test.
"""

from collections import Counter
from dataclasses import dataclass

from storage.index_keys import OutboxEntry


@dataclass(frozen=True, slots=True)
class Bounds:
    in_all: int
    of_tenant: int
    of_host: int
    """At one host, whatever the paths: a job can name a path of its own, so a receiver's bound is not enough."""
    of_endpoint: int


EVENTS = Bounds(in_all=256, of_tenant=32, of_host=16, of_endpoint=4)
"""An attempt that hangs costs a socket for 15 s: seven tenants whose receivers all hang leave slots for the others."""
TESTS = Bounds(in_all=64, of_tenant=8, of_host=4, of_endpoint=2)


class AttemptSlots:
    """Counts the attempts in flight against one set of bounds."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._taken: Counter[tuple[str, ...]] = Counter()

    def is_full(self) -> bool:
        return self._taken[()] >= self._bounds.in_all

    def has_room_for(self, entry: OutboxEntry) -> bool:
        return all(self._taken[group] < bound for group, bound in self._groups(entry))

    def has_room_of(self, tenant: str) -> bool:
        """Whether the tenant may have a further attempt at some receiver."""
        return not self.is_full() and self._taken[tenant,] < self._bounds.of_tenant

    def has_room_at(self, tenant: str, host: str) -> bool:
        """Whether the tenant may have a further attempt at some receiver of this host."""
        return self._taken[tenant, host] < self._bounds.of_host

    def taken_by(self, tenant: str) -> int:
        return self._taken[tenant,]

    def take(self, entry: OutboxEntry) -> None:
        for group, _ in self._groups(entry):
            self._taken[group] += 1

    def release(self, entry: OutboxEntry) -> None:
        for group, _ in self._groups(entry):
            self._taken[group] -= 1
            if not self._taken[group]:
                del self._taken[group]

    def _groups(self, entry: OutboxEntry) -> tuple[tuple[tuple[str, ...], int], ...]:
        tenant, bounds = entry.ref.tenant, self._bounds
        return (
            ((), bounds.in_all),
            ((tenant,), bounds.of_tenant),
            ((tenant, entry.host), bounds.of_host),
            ((tenant, entry.endpoint), bounds.of_endpoint),
        )
