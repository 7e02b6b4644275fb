"""The client's verification of webhooks, against the signatures that the deployment makes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_modal_client import WebhookRejected, verify_webhook
from storage.webhooks.signing import Signer, new_secret

NOW = 1_795_428_000
TOLERANCE_S = 5 * 60
SECRET = new_secret()


@given(st.dictionaries(st.text(), st.text() | st.integers()))
def test_a_signed_event_verifies(event: dict[str, str | int]) -> None:
    """Any signed event verifies with each of two secrets, and with both, during a rotation."""
    other, body = new_secret(), json.dumps(event).encode()
    headers = Signer((SECRET, other)).headers("evt_1", NOW, body)
    for secret in (SECRET, other, (new_secret(), other)):
        assert verify_webhook(secret, headers, body, now=NOW) == event


def test_names_of_headers_may_have_any_case() -> None:
    """Headers verify in the case in which a framework passes them on."""
    headers = Signer((SECRET,)).headers("evt_1", NOW, b"{}")
    assert verify_webhook(SECRET, {name.title(): value for name, value in headers.items()}, b"{}", now=NOW) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "evt_2"},
        {"webhook-id": "\udce4"},
        {"webhook-timestamp": str(NOW + 1)},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,ä \udce4"},
        {"webhook-timestamp": "noon"},
        {"webhook-timestamp": "9" * 4000},
    ],
)
def test_a_changed_header_does_not_verify(change: dict[str, str]) -> None:
    """The signature covers the id and the time, and a malformed header is refused."""
    headers = Signer((SECRET,)).headers("evt_1", NOW, b"{}")
    with pytest.raises(WebhookRejected):
        verify_webhook(SECRET, headers | change, b"{}", now=NOW)


def test_another_body_or_secret_does_not_verify() -> None:
    """A changed body and the secret of another deployment are refused."""
    headers = Signer((SECRET,)).headers("evt_1", NOW, b"{}")
    for secret, body in ((SECRET, b'{"a": 1}'), (new_secret(), b"{}")):
        with pytest.raises(WebhookRejected, match="no signature"):
            verify_webhook(secret, headers, body, now=NOW)


def test_a_timestamp_beyond_the_tolerance_is_refused() -> None:
    """A message more than 5 minutes old or in the future is refused."""
    headers = Signer((SECRET,)).headers("evt_1", NOW, b"{}")
    for now in (NOW + TOLERANCE_S, NOW - TOLERANCE_S):
        verify_webhook(SECRET, headers, b"{}", now=now)
    for now in (NOW + TOLERANCE_S + 1, NOW - TOLERANCE_S - 1):
        with pytest.raises(WebhookRejected, match="300 seconds"):
            verify_webhook(SECRET, headers, b"{}", now=now)


def test_a_missing_header_is_named() -> None:
    """The error for a missing header names the header."""
    with pytest.raises(WebhookRejected, match="webhook-id is missing"):
        verify_webhook(SECRET, {}, b"{}", now=NOW)


@pytest.mark.parametrize("body", [b"\xff", b"[]"])
def test_a_signed_body_that_is_no_event_is_refused(body: bytes) -> None:
    """A body is a JSON object."""
    headers = Signer((SECRET,)).headers("evt_1", NOW, body)
    with pytest.raises(WebhookRejected, match="the body is not"):
        verify_webhook(SECRET, headers, body, now=NOW)


@pytest.mark.parametrize("secret", ["whpk_AAAA", "whsec_ä", "", "whsec_", "whsec_c2hvcnQ="])
def test_a_text_that_is_no_secret_is_refused_and_not_repeated(secret: str) -> None:
    """The error for an invalid secret is the caller's fault, not the sender's, and does not contain the secret."""
    with pytest.raises(ValueError, match="a webhook secret") as caught:
        verify_webhook(secret, {}, b"")
    assert not isinstance(caught.value, WebhookRejected)
    assert (secret.removeprefix("whsec_") or "nothing") not in str(caught.value)
