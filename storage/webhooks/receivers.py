"""Which URLs a tenant's events may go to: asked by the API at submission, and by the deliverer at every connection.

Receivers on this machine are a developer's own. They are never one of this deployment's processes, and with
`one-tenant`, the default of `comfyui-modal up`, they are allowed for as long as one tenant alone has keys: the services
of a machine are no business of several.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from storage.intake.destinations import Destinations

Loopback = Literal["one-tenant", "true", "false"]

SEVERAL_TENANTS = (
    "events go to receivers on this machine for as long as there is one tenant, and now there are several: "
    "the operator may allow it by COMFYUI_MODAL_WEBHOOK_LOOPBACK=true"
)


class Tenants(Protocol):
    """Who has API keys; see `storage.access.key_store`."""

    async def has_other_tenant(self, tenant: str) -> bool:
        """Whether a tenant besides this one has a key."""
        ...


class ReceiverRules:
    """`own_ports` are those of this deployment's processes. `named` tenants have keys that `tenants` does not know of.

    What needs httpx imports it late, as `storage.intake.remote` does: an API without webhooks never loads it.
    """

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
        from storage.intake.destinations import Destinations

        async def loopback() -> str | None:
            if self._loopback == "one-tenant" and await self._is_one_of_several(tenant):
                return SEVERAL_TENANTS
            return None

        return Destinations(own_ports=self._own_ports, loopback=None if self._loopback == "false" else loopback)

    async def refusal(self, tenant: str, url: str) -> str | None:
        """Why no event will ever reach this URL, as far as that is known without resolving its name."""
        import httpx

        from storage.intake.destinations import REFUSALS

        try:
            await self.destinations(tenant).check_url(httpx.URL(url))
        except REFUSALS as error:
            return str(error)
        return None

    async def _is_one_of_several(self, tenant: str) -> bool:
        """The tenant itself counts also where its keys have ended: its jobs may still send events."""
        return not self._named <= {tenant} or await self._tenants.has_other_tenant(tenant)
