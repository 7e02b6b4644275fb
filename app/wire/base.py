"""What the bodies of requests and answers are made of."""

from datetime import datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    model_validator,
)

from storage.jobs.models import EventName
from storage.jobs.record import DAY_S

DEFAULT_EVENTS: tuple[EventName, ...] = ("completed", "failed")

Moment = Annotated[
    datetime, PlainSerializer(lambda moment: moment.isoformat(timespec="microseconds"), when_used="json")
]
"""As the first version wrote times, 2025-09-19T17:42:00.123456+00:00: older parsers do not know Z."""

MAX_METADATA_NAME, MAX_METADATA_TEXT = 64, 512
MAX_URL = 2048
MAX_IDEMPOTENCY_KEY = 255
MAX_PARTNER_KEY = 512
MAX_REPLAYED = 1000

MOST_MEMBERS = 1_000
"""Of an object whose members are validated one by one. Pydantic describes each fault, and while it does so no other
thread runs: 90,000 faults, which a body of 300 KB can have, take more than a second."""

T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list that a client may make long: its first fault ends it, for the same reason."""


def _few(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MOST_MEMBERS:
        raise ValueError(f"it has {len(value)} members, at most {MOST_MEMBERS} are allowed")
    return value


Few = BeforeValidator(_few)
"""For objects whose names the client chooses."""

NodeId = Annotated[str, StringConstraints(min_length=1, max_length=200)]
MetadataName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_METADATA_NAME)]
MetadataText = Annotated[str, StringConstraints(max_length=MAX_METADATA_TEXT)]


def _of_a_receiver(url: str) -> str:
    """As far as a look at it tells; where it leads is checked whenever something is sent. ValueError otherwise."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        raise ValueError("not an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with credentials; the receiver knows us by the signature")
    if parts.port == 0:  # one out of range raises
        raise ValueError("a URL without a usable port")
    return url


WebhookUrl = Annotated[str, StringConstraints(max_length=MAX_URL), AfterValidator(_of_a_receiver)]
LONGEST_QUEUE_TIMEOUT_S = 30 * DAY_S
LONGEST_TIMEOUT_S = 365 * DAY_S
"""Bounds of the type; the deployment's own limits are smaller."""
LONGEST_RETAIN_DAYS = 36_500


class Request(BaseModel):
    """An unknown field is refused: it is a typing error, or a wish that would silently not come true."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_members(cls, value: Any) -> Any:
        return _few(value)


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)
