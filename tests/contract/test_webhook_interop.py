"""This project's webhook requests, checked with the Python libraries of Standard Webhooks, Svix and CloudEvents."""

import base64
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import svix
from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

from app.api.events import TYPES, schema
from storage.webhooks.signing import new_secret, public_key
from tests.interop.requests import SignedEvent, signed_events

SECRET, OTHER = new_secret(), new_secret()
PAGE = Path(__file__).parents[2] / "docs/how-to/webhooks.md"


@pytest.fixture
def events() -> list[SignedEvent]:
    """Events that were signed during a rotation of secrets, each with two signatures."""
    return signed_events(datetime.now(UTC), (OTHER, SECRET))


def test_every_event_type_is_covered(events: list[SignedEvent]) -> None:
    """These tests cover the events of jobs, batches and webhook tests."""
    assert {event.type for event in events} == set(TYPES)


@pytest.mark.parametrize("verifier", [Webhook, svix.Webhook], ids=["standardwebhooks", "svix"])
@pytest.mark.parametrize("secret", [SECRET, OTHER], ids=["old", "new"])
def test_the_official_verifiers_accept_each_event(
    events: list[SignedEvent], verifier: Callable[[str], Any], secret: str
) -> None:
    """The official verifiers accept each event with either secret, and no altered body and no other secret."""
    for event in events:
        headers = dict(event.headers)
        verifier(secret).verify(event.body, headers)
        with pytest.raises((WebhookVerificationError, svix.WebhookVerificationError)):
            verifier(secret).verify(event.body.replace(b"1", b"2", 1), headers)
        with pytest.raises((WebhookVerificationError, svix.WebhookVerificationError)):
            verifier(new_secret()).verify(event.body, headers)


def test_an_ed25519_signature_is_added() -> None:
    """An additional Ed25519 signature is valid for the public key, and verifiers of v1 skip it."""
    key = "whsk_" + base64.b64encode(secrets.token_bytes(32)).decode()
    (event, *_) = signed_events(datetime.now(UTC), (SECRET,), key)
    Webhook(SECRET).verify(event.body, dict(event.headers))
    v1a = event.headers["webhook-signature"].split()[1].removeprefix("v1a,")
    signed = f"{event.headers['webhook-id']}.{event.headers['webhook-timestamp']}.".encode() + event.body
    public = base64.b64decode(public_key(key).removeprefix("whpk_"))
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(v1a), signed)


def test_each_event_is_a_cloud_event(events: list[SignedEvent]) -> None:
    """The CloudEvents SDK parses each event, and its data fulfils the named schema."""
    for event in events:
        message = HTTPMessage(headers=dict(event.headers), body=event.body)
        parsed = from_http(message, JSONFormat(), CloudEvent)
        assert (parsed.get_id(), parsed.get_type()) == (event.headers["webhook-id"], event.type)
        document = schema(event.type, "https://api.example")
        assert parsed.get_dataschema() == document["$id"]
        jsonschema.validate(parsed.get_data(), document, format_checker=jsonschema.FormatChecker())


def test_every_event_type_has_a_schema() -> None:
    """Each event type has a valid schema at the address that its events name."""
    for kind in TYPES:
        document = schema(kind, "https://api.example")
        jsonschema.Draft202012Validator.check_schema(document)
        assert document["$id"] == f"https://api.example/schemas/{kind}.json"


@pytest.mark.anyio
async def test_the_receiver_in_the_docs_works(
    events: list[SignedEvent], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python receiver on the docs page accepts each event once and refuses unsigned requests."""
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102  the page belongs to this repository
    transport = httpx.ASGITransport(names["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver.example") as client:
        unsigned = {"ce-id": "evt_other", "ce-type": "other", "ce-source": "/other", "ce-specversion": "1.0"}
        for event, more in [*((event, {}) for event in events), *((event, unsigned) for event in events)]:
            answer = await client.post("/hooks/comfyui", content=event.body, headers={**event.headers, **more})
            assert answer.status_code == 204
        forged = dict(events[0].headers) | {"webhook-signature": "v1,AAAA"}
        assert (await client.post("/hooks/comfyui", content=events[0].body, headers=forged)).status_code == 401
    assert len(capsys.readouterr().out.splitlines()) == len({event.headers["webhook-id"] for event in events})
