"""`WebhookTransport`: one POST to a receiver's checked address, without redirects and with a time limit."""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import httpx

from storage.intake.ssrf import REFUSALS, refusal_reason
from storage.intake.ssrf_transport import PinnedTransport, described, pinned_client
from storage.webhooks.receivers import ReceiverRules

TIMEOUT_S = 15.0
"""Wall-clock limit of a whole attempt, in seconds."""
EXCERPT_BYTES = 4096
EXCERPT_PIECES = 256
"""Maximum pieces of a response body that are read."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a POST. Without a response `status` is None and `error` has the reason."""

    status: int | None
    duration_ms: int
    error: str | None = None
    excerpt: str | None = None
    retry_after: str | None = None
    wants_no_more: bool = False
    """The receiver sent `webhook-delivery: disable`."""
    aborts: bool = False
    """The receiver sent `webhook-delivery: abort-message`: this event is not wanted, others are."""
    is_refused: bool = False
    """Nothing was sent because the URL is not allowed or the event cannot be made. A retry does not help."""


class WebhookTransport(Protocol):
    async def post(self, tenant: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a POST. Failures of the network or the receiver are returned, never raised."""
        ...

    async def handshake(self, tenant: str, url: str, origin: str) -> Answer | None:
        """Ask for the receiver's consent: return None if it agrees, else the failure. Raises as `post`."""
        ...


class RemotePoster:
    """`rules` decide which addresses a tenant's events may reach."""

    def __init__(self, rules: ReceiverRules, *, timeout_s: float = TIMEOUT_S) -> None:
        self._rules = rules
        self._timeout_s = timeout_s

    async def post(self, tenant: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s), self._client(tenant) as client:
                return await _send(client, url, headers, body, started)
        except TimeoutError:
            return Answer(None, _ms(started), f"no complete answer within {self._timeout_s:g} s")
        except REFUSALS as error:
            return Answer(None, _ms(started), refusal_reason(error), is_refused=True)
        except httpx.HTTPError as error:
            return Answer(None, _ms(started), described(error))

    async def handshake(self, tenant: str, url: str, origin: str) -> Answer | None:
        """Perform the abuse-protection handshake of CloudEvents for webhooks."""
        headers, started = {"webhook-request-origin": origin}, time.monotonic()
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client(tenant) as client,
                client.stream("OPTIONS", url, headers=headers) as response,
            ):
                pass  # only the headers matter
        except REFUSALS as error:
            return Answer(None, _ms(started), refusal_reason(error), is_refused=True)
        except (TimeoutError, httpx.HTTPError) as error:
            return Answer(None, _ms(started), f"the handshake failed: {type(error).__name__}")
        allowed = response.headers.get("webhook-allowed-origin", "").strip()
        if response.is_success and allowed in (origin, "*"):
            return None
        return Answer(None, _ms(started), f"the receiver does not allow {origin} (it answered {response.status_code})")

    def _client(self, tenant: str) -> httpx.AsyncClient:
        # One for each request, so that no state of a delivery reaches the next. A TLS handshake costs about 4 ms of
        # processor time, less than the bucket requests of one delivery.
        transport = PinnedTransport(self._rules.destinations(tenant), tenant=tenant)
        return pinned_client(transport, timeout_s=self._timeout_s)


async def _send(client: httpx.AsyncClient, url: str, headers: Mapping[str, str], body: bytes, started: float) -> Answer:
    async with client.stream("POST", url, headers=dict(headers), content=body) as response:
        excerpt = b""
        pieces = 0
        async for chunk in response.aiter_raw():
            excerpt, pieces = excerpt + chunk, pieces + 1
            # The rest is not read: the connection serves no other request and is closed.
            if len(excerpt) >= EXCERPT_BYTES or pieces == EXCERPT_PIECES:
                break
        wanted = response.headers.get("webhook-delivery", "").strip().lower()
        return Answer(
            response.status_code,
            _ms(started),
            excerpt=_text(excerpt) or None,
            retry_after=response.headers.get("retry-after"),
            wants_no_more=wanted == "disable",
            aborts=wanted == "abort-message",
        )


def _text(excerpt: bytes) -> str:
    """Return at most EXCERPT_BYTES of UTF-8."""
    # A replacement has three bytes, so the text is cut again. JSON would encode a control character in six.
    readable = _CONTROL.sub("\ufffd", excerpt[:EXCERPT_BYTES].decode("utf-8", "replace"))
    return readable.encode()[:EXCERPT_BYTES].decode("utf-8", "ignore")


def _ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
