"""The outbox entries that were listed and have no slot yet, by tenant, host and receiver.

A tenant may have a million entries for one receiver. Grouped, a full host or receiver costs one look instead of one for
each of its entries: of a tenant with a free slot, the slots in use fill only few hosts and receivers.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable

from storage.index_keys import OutboxEntry
from workers.webhooks.attempt_slots import AttemptSlots

_Receivers = OrderedDict[str, deque[OutboxEntry]]
_Hosts = OrderedDict[str, _Receivers]


class WaitingEntries:
    """The waiting entries of one kind. Those of a receiver keep their order; receivers and hosts take turns."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Hosts] = {}

    def add(self, entry: OutboxEntry) -> None:
        hosts = self._tenants.setdefault(entry.ref.tenant, OrderedDict())
        hosts.setdefault(entry.host, OrderedDict()).setdefault(entry.endpoint, deque()).append(entry)

    def tenants(self) -> Iterable[str]:
        return self._tenants

    def take(self, tenant: str, slots: AttemptSlots) -> OutboxEntry | None:
        """Remove and return an entry of the tenant for which there is a slot; None if there is none."""
        hosts = self._tenants.get(tenant, OrderedDict())
        if not slots.has_room_of(tenant):
            return None
        for host, receivers in hosts.items():
            if not slots.has_room_at(tenant, host):
                continue
            for endpoint, entries in receivers.items():
                if slots.has_room_for(entries[0]):
                    return self._taken(tenant, host, endpoint)
        return None

    def _taken(self, tenant: str, host: str, endpoint: str) -> OutboxEntry:
        hosts = self._tenants[tenant]
        receivers = hosts[host]
        entry = receivers[endpoint].popleft()
        receivers.move_to_end(endpoint)
        hosts.move_to_end(host)
        if not receivers[endpoint]:
            del receivers[endpoint]
        if not receivers:
            del hosts[host]
        if not hosts:
            del self._tenants[tenant]
        return entry
