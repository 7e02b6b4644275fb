"""Base classes and field types of request and response bodies."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from storage.jobs.models import EventName
from storage.jobs.record import DAY_S

DEFAULT_EVENTS: tuple[EventName, ...] = ("completed", "failed")

Moment = Annotated[
    datetime,
    PlainSerializer(lambda moment: moment.isoformat(timespec="microseconds"), when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A time as the first version wrote it, 2025-09-19T17:42:00.123456+00:00, because older parsers do not accept Z."""

MAX_METADATA_NAME, MAX_METADATA_TEXT = 64, 512
MAX_URL = 2048
MAX_IDEMPOTENCY_KEY = 255
MAX_PARTNER_KEY = 512
MAX_REPLAYED = 1000

MOST_MEMBERS = 1_000
"""Members of an object that is validated member by member. Pydantic describes each fault while it holds the GIL: the
90,000 faults that a body of 300 KB can have take more than a second."""

T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list of any length. Its validation stops at the first fault, for the same reason."""


def _few(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MOST_MEMBERS:
        raise ValueError(f"it has {len(value)} members, at most {MOST_MEMBERS} are allowed")
    return value


Few = BeforeValidator(_few)
"""Bounds the members of an object whose names the client chooses."""

NodeId = Annotated[str, StringConstraints(min_length=1, max_length=200)]
MetadataName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_METADATA_NAME)]
MetadataText = Annotated[str, StringConstraints(max_length=MAX_METADATA_TEXT)]


def _of_a_receiver(url: str) -> str:
    """Check the syntax of a receiver's URL. Raises ValueError."""
    # Its address is checked on each delivery, because a host name may resolve to another address by then.
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its message is that of Python's parser
        raise ValueError("not an http or https URL; its host or its port is malformed") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        raise ValueError("not an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with credentials; the receiver knows us by the signature")
    if port == 0:
        raise ValueError("a URL without a usable port")
    return url


WebhookUrl = Annotated[str, StringConstraints(max_length=MAX_URL), AfterValidator(_of_a_receiver)]
LONGEST_QUEUE_TIMEOUT_S = 30 * DAY_S
LONGEST_DEADLINE_S = 30 * DAY_S
LONGEST_TIMEOUT_S = 365 * DAY_S
"""The schema's bound; the deployment's own limits are smaller."""
LONGEST_RETAIN_DAYS = 36_500


class RequestBody(BaseModel):
    """The base of request bodies."""

    kind: ClassVar[str] = "an object"
    """How a refusal names a value of this model."""

    model_config = ConfigDict(extra="forbid")  # a misspelled option would be ignored silently

    # Before the members are validated: afterwards the time for describing their faults is already spent.
    @model_validator(mode="before")
    @classmethod
    def _has_few_members(cls, value: Any) -> Any:
        return _few(value)


class ResponseBody(BaseModel):
    """The base of response bodies."""

    model_config = ConfigDict(frozen=True)
