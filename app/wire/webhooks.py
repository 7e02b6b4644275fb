"""The request and response bodies of deliveries, dead letters and receivers."""

from typing import Literal

from pydantic import (
    Field,
)

from app.wire.base import MAX_REPLAYED, Answer, Many, Moment, Request, WebhookUrl


class AttemptView(Answer):
    """One POST to the receiver. `status` is the answer's; `error` says why there was none."""

    number: int
    at: Moment
    status: int | None
    duration_ms: int
    error: str | None
    excerpt: str | None = Field(description="the first 4 KB of the answer; of an older attempt, 256 characters")


class DeliveryView(Answer):
    """How the delivery of one event went."""

    event_id: str = Field(description="the CloudEvent's id, and the webhook-id")
    type: str
    sequence: int
    url: str
    status: Literal["pending", "delivered", "dead"]
    reason: str | None = Field(description="why it was given up")
    next_at: Moment | None = Field(description="when it is tried next")
    attempts: list[AttemptView]


class DeliveryList(Answer):
    deliveries: list[DeliveryView]


class DeadLetterList(Answer):
    dead_letters: list[DeliveryView]
    next_cursor: str | None = Field(description="pass it as cursor for the next page")


class ReplayRequest(Request):
    """Which dead letters are sent again; all of them unless they are named."""

    event_ids: Many[str] | None = Field(None, max_length=MAX_REPLAYED)


class Replayed(Answer):
    replayed: list[str] = Field(description="the ids of the events that are sent again")


class WebhookTestRequest(Request):
    url: WebhookUrl = Field(description="the receiver to try")


class EndpointView(Answer):
    """How a receiver has been doing."""

    url: str
    state: Literal["closed", "open", "disabled"] = Field(description="open: left alone until open_until")
    failures: int = Field(description="in a row")
    failing_since: Moment | None
    last_success_at: Moment | None
    open_until: Moment | None
    disabled_reason: str | None


class EndpointList(Answer):
    endpoints: list[EndpointView]


class WebhookKeys(Answer):
    keys: list[str] = Field(description="ed25519 public keys, as whpk_…")
