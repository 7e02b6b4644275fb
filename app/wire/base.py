"""What the bodies of requests and answers are made of."""

from datetime import datetime
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PlainSerializer,
    StringConstraints,
)

from storage.jobs.record import DAY_S
from storage.jobs.values import EventName

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

NodeId = Annotated[str, StringConstraints(min_length=1, max_length=200)]
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


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)
