"""Makes one attempt to deliver an event, and commits its result.

outbox entry → the committed event → a lease on its delivery → POST → next entry → the delivery's record → old entry

In this order a crash at any point leaves an outbox entry, so an event is sent twice rather than never.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from storage import keys
from storage.bucket.objects import confirm_absence
from storage.errors import ObjectNotFound, PreconditionFailed, StorageError
from storage.fair_slots import FairSlots
from storage.index_keys import OutboxEntry
from storage.outbox import Committed, Found, JobHappened, TestAsked
from storage.stores import Stores
from storage.webhooks.deliveries import LEASE, Delivery, DeliveryAttempt, StoredDelivery
from storage.webhooks.signing import Signer
from workers.webhooks.policy import Decision, decide
from workers.webhooks.post import Answer, WebhookTransport

logger = logging.getLogger(__name__)

LARGE_AT_ONCE = 32
LARGE_OF_TENANT = 8
"""Attempts at large events at once, in all and of one tenant. Each takes up to 4 MB for as long as its receiver hangs:
the record of a job with 1,000 outputs, and the body with a presigned URL for each of them."""

Result = Literal["delivered", "again", "dead", "dropped", "later"]


class Renderer(Protocol):
    """Renders a CloudEvent with fresh presigned URLs; implemented by `app.api.events`."""

    def type_of(self, found: Committed) -> str: ...

    def is_large(self, found: Committed) -> bool: ...

    async def render(self, found: Committed) -> tuple[Mapping[str, str], bytes]:
        """Return the request's headers and body."""
        ...


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """`lease` is how long one attempt may take before another deliverer repeats it."""

    lease: timedelta = LEASE
    retry_scale: float = 1.0
    """A factor for every delay of the schedule."""
    origin: str | None = None
    """The `WebHook-Request-Origin` of the handshake that asks a receiver for its consent; None skips the handshake."""


class Deliverer:
    """`signer` has the deployment's secrets. A job's or batch's own secret replaces them."""

    def __init__(
        self,
        stores: Stores,
        *,
        transport: WebhookTransport,
        renderer: Renderer,
        signer: Signer,
        policy: DeliveryPolicy | None = None,
    ) -> None:
        self._stores = stores
        self._policy = policy or DeliveryPolicy()
        self._transport = transport
        self._renderer = renderer
        self._signer = signer
        self._large = FairSlots(LARGE_AT_ONCE, each=LARGE_OF_TENANT)

    async def deliver(self, entry: OutboxEntry) -> Result:
        """Deliver the event of an entry once. Raises `StorageError` if the bucket fails; the entry then remains."""
        found = await self._stores.outbox.find(entry)
        if isinstance(found, str) or not self._renderer.is_large(found):
            return await self._deliver(entry, found)
        if (leave := self._large.enter_now(entry.ref.tenant)) is None:
            del found  # read again when its turn comes, so that it takes no memory meanwhile
            leave = await self._large.enter(entry.ref.tenant)
            found = await self._stores.outbox.find(entry)
        try:
            return await self._deliver(entry, found)
        finally:
            leave()

    async def _deliver(self, entry: OutboxEntry, found: Found) -> Result:
        if found == "later":
            return "later"
        if found == "never":
            await self._stores.outbox.drop(entry)
            return "dropped"
        try:
            held = await self._hold(entry, found)
            return held if isinstance(held, str) else await self._attempt(entry, found, held)
        except PreconditionFailed:
            return "later"  # another deliverer has the event

    async def _hold(self, entry: OutboxEntry, found: Committed) -> StoredDelivery | Result:
        """Return the delivery under this deliverer's lease, or the result if there is nothing to send."""
        if _is_first(entry, found):
            try:
                return await self._start(entry, found)
            except PreconditionFailed:
                pass  # a delivery exists: read it
        stored, now = await self._stores.deliveries.find(entry.ref), self._stores.clock.now()
        if stored is None:
            return await self._start(entry, found)
        delivery = stored.record
        if delivery.is_held(now):
            return "later"
        if entry.generation > delivery.generation:
            # The entry precedes a commit that another deliverer has not made. Once that commit is ruled out, the entry
            # can be deleted.
            await self._stores.deliveries.invalidate(stored, entry)
        elif delivery.status == "pending" and not _is_replaced(entry, delivery, now):
            return await self._stores.deliveries.settle(stored, delivery.held(now + self._policy.lease))
        elif delivery.outbox_entry is not None:
            # The delivery has a newer entry, which is written again in case a crash prevented it.
            await self._stores.outbox.keep(delivery.outbox_entry)
        await self._stores.outbox.drop(entry)
        return "dropped"

    async def _start(self, entry: OutboxEntry, found: Committed) -> StoredDelivery:
        delivery = _new_delivery(entry, found, self._renderer)
        return await self._stores.deliveries.start(delivery.held(self._stores.clock.now() + self._policy.lease))

    async def _attempt(self, entry: OutboxEntry, found: Committed, held: StoredDelivery) -> Result:
        allowed = await self._stores.endpoints.may_send(held.record.tenant, held.record.url)
        if isinstance(allowed, datetime):
            # A pause of the receiver is not an attempt, so it does not use up the schedule.
            return await self._settle(entry, held, held.record.rescheduled(None, allowed), "again")
        if isinstance(allowed, str):
            return await self._settle(
                entry, held, held.record.died(None, f"endpoint disabled: {allowed}", self._stores.clock.now()), "dead"
            )
        started = self._stores.clock.now()
        answer = await self._send(found, held.record)
        return await self._conclude(entry, held, answer, started)

    async def _send(self, found: Committed, delivery: Delivery) -> Answer:
        if (refusal := await self._refusal(delivery)) is not None:
            return refusal
        try:
            headers, body = await self._renderer.render(found)
            signer = await self._signer_of(found)
        except ObjectNotFound:
            return Answer(None, 0, "the secret that it is to be signed with is gone", is_refused=True)
        except StorageError:
            raise
        except Exception:  # a defect of ours ends as a dead letter, which can be replayed once it is fixed
            logger.exception("event %s could not be made", delivery.ref.event_id)
            return Answer(None, 0, "the event could not be made; the deliverer's log says why", is_refused=True)
        signature = signer.headers(delivery.ref.event_id, int(self._stores.clock.now().timestamp()), body)
        try:
            return await self._transport.post(delivery.tenant, delivery.url, {**headers, **signature}, body)
        except StorageError:
            raise
        except Exception:  # a defect of ours counts as a failed attempt, so that the retries have an end
            logger.exception("event %s could not be sent", delivery.ref.event_id)
            return Answer(None, 0, "the request could not be made; the deliverer's log says why")

    async def _refusal(self, delivery: Delivery) -> Answer | None:
        """Return the receiver's refusal of the handshake; None if it has agreed, which is stored."""
        if self._policy.origin is None or await self._stores.endpoints.has_agreed(delivery.tenant, delivery.url):
            return None
        refusal = await self._transport.handshake(delivery.tenant, delivery.url, self._policy.origin)
        if refusal is None:
            now = self._stores.clock.now()
            await self._stores.endpoints.change(delivery.tenant, delivery.url, lambda endpoint: endpoint.agreed(now))
        return refusal

    async def _signer_of(self, found: Committed) -> Signer:
        if isinstance(found, TestAsked) or not found.record.has_webhook_secret:
            return self._signer.of_tenant(found.ref.tenant)
        of_owner = keys.webhook_secret if isinstance(found, JobHappened) else keys.batch_webhook_secret
        key = of_owner(found.ref.tenant, found.ref.id)
        try:
            secret = await self._stores.objects.get(key)
        except ObjectNotFound:
            await confirm_absence(self._stores.objects, key)  # the event is given up without it
            raise
        return Signer((secret.body.decode(),), self._signer.ed25519_key)

    async def _conclude(self, entry: OutboxEntry, held: StoredDelivery, answer: Answer, started: datetime) -> Result:
        now, delivery = self._stores.clock.now(), held.record
        attempt = DeliveryAttempt(
            number=delivery.attempted + 1,
            at=started,
            status=answer.status,
            duration_ms=answer.duration_ms,
            error=answer.error,
            excerpt=answer.excerpt,
        )
        decision = decide(
            answer,
            event_id=delivery.ref.event_id,
            tries=delivery.tries + 1,
            is_progress=delivery.is_progress,
            now=now,
            scale=self._policy.retry_scale,
        )
        match decision.what:
            case "delivered":
                after = delivery.delivered(attempt)
            case "again":
                assert decision.retry_at is not None  # noqa: S101  `decide` gives one
                after = delivery.rescheduled(attempt, decision.retry_at)
            case "dead":
                after = delivery.died(attempt, decision.reason or "", now)
        result = await self._settle(entry, held, after, decision.what)
        await self._remember(delivery, decision)
        return result

    async def _remember(self, delivery: Delivery, decision: Decision) -> None:
        """Update the receiver's failure count. The rejection of a single event does not count as a failure."""
        tenant, url = delivery.tenant, delivery.url
        if decision.what == "delivered":
            await self._stores.endpoints.succeeded(tenant, url)
        elif decision.what == "again" or decision.disable is not None or decision.is_exhausted:
            await self._stores.endpoints.failed(tenant, url, disable=decision.disable, scale=self._policy.retry_scale)

    async def _settle(self, entry: OutboxEntry, held: StoredDelivery, after: Delivery, result: Result) -> Result:
        await self._stores.deliveries.settle(held, after)
        await self._stores.outbox.drop(entry)  # last, since `settle` has written the next entry
        return result


def _is_first(entry: OutboxEntry, found: Committed) -> bool:
    """Whether this is probably the first attempt at the event."""
    # Then the record is created without a GET before it; the create-only write fails if it exists.
    return isinstance(found, JobHappened) and entry.generation == found.event.rev


def _is_replaced(entry: OutboxEntry, delivery: Delivery, now: datetime) -> bool:
    """Whether another entry is the one of the next attempt."""
    newest = delivery.outbox_entry
    if newest is None or newest.key == entry.key:
        return False
    return newest.generation > entry.generation or newest.due > now


def _new_delivery(entry: OutboxEntry, found: Committed, renderer: Renderer) -> Delivery:
    ref = entry.ref
    return Delivery(
        tenant=ref.tenant,
        kind=ref.kind,
        owner_id=ref.id,
        sequence=ref.sequence,
        type=renderer.type_of(found),
        url=found.url,
        next_at=entry.due,
        generation=max(entry.generation, found.event.rev) if isinstance(found, JobHappened) else entry.generation,
    )
