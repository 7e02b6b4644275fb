"""Converts deliveries and receivers to the models of responses. URLs lose their query, which may hold a token."""

from app.wire.webhooks import AttemptView, DeliveryView, EndpointView
from storage.webhooks.deliveries import Delivery
from storage.webhooks.endpoints import Endpoint


def delivery_view(delivery: Delivery) -> DeliveryView:
    return DeliveryView(
        event_id=delivery.ref.event_id,
        type=delivery.type,
        sequence=delivery.sequence,
        url=_shown(delivery.url),
        status=delivery.status,
        reason=delivery.reason,
        next_at=delivery.next_at,
        attempts=[AttemptView.model_validate(attempt.model_dump()) for attempt in delivery.attempts],
    )


def endpoint_view(endpoint: Endpoint) -> EndpointView:
    return EndpointView(
        url=_shown(endpoint.url), state=endpoint.state, **endpoint.model_dump(exclude={"tenant", "url", "rev", "nonce"})
    )


def _shown(url: str) -> str:
    path, query, _ = url.partition("?")
    return f"{path}?…" if query else path
