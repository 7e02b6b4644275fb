"""The URLs that a tenant's events may be sent to, checked at submission and at every connection of the deliverer.

Receivers on this machine are for development. They are never one of this deployment's own processes. With `one-tenant`,
the default of `comfyui-modal up`, they are allowed while only one tenant has keys, so that tenants cannot reach
services that are not theirs.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from storage.intake.ssrf import Destinations

Loopback = Literal["one-tenant", "true", "false"]

SEVERAL_TENANTS = (
    "events go to receivers on this machine for as long as there is one tenant, and now there are several: "
    "the operator may allow it by COMFYUI_MODAL_WEBHOOK_LOOPBACK=true"
)


class Tenants(Protocol):
    """Reports which tenants have API keys; implemented by `storage.access.key_store`."""

    async def has_other_tenant(self, tenant: str) -> bool:
        """Whether a tenant other than this one has a key."""
        ...


class ReceiverRules:
    """`own_ports` are those of this deployment's processes. `named` tenants have keys that `tenants` does not know."""

    def __init__(
        self,
        tenants: Tenants,
        *,
        loopback: Loopback = "false",
        own_ports: Iterable[int] = (),
        named: Iterable[str] = (),
    ) -> None:
        self._tenants = tenants
        self._loopback = loopback
        self._own_ports = frozenset(own_ports)
        self._named = frozenset(named)

    def destinations(self, tenant: str) -> "Destinations":
        from storage.intake.ssrf import Destinations

        async def loopback() -> str | None:
            if self._loopback == "one-tenant" and await self._is_one_of_several(tenant):
                return SEVERAL_TENANTS
            return None

        return Destinations(own_ports=self._own_ports, loopback=None if self._loopback == "false" else loopback)

    async def refusal(self, tenant: str, url: str) -> str | None:
        """Return why no event can be sent to this URL, as far as its text shows without name resolution, or None."""
        # Not at the top: an API without webhooks does not need it, and its import is slow.
        import httpx

        from storage.intake.ssrf import REFUSALS, refusal_reason

        try:
            await self.destinations(tenant).check_url(httpx.URL(url))
        except REFUSALS as error:
            return refusal_reason(error)
        return None

    async def _is_one_of_several(self, tenant: str) -> bool:
        """Whether there are other tenants. This one counts even without keys: its jobs may still send events."""
        return not self._named <= {tenant} or await self._tenants.has_other_tenant(tenant)
