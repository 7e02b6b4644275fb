"""Secrets and signatures of Standard Webhooks, without other people's libraries (see the interop tests for these)."""

import base64
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.webhooks.signing import (
    TOLERANCE_S,
    BadSecret,
    BadSignature,
    Signer,
    new_secret,
    public_key,
    secret_bytes,
    tenant_secret,
    verify,
)

NOW = 1_795_428_000
SECRET = new_secret()


def encoded(prefix: str, size: int) -> str:
    return prefix + base64.b64encode(b"k" * size).decode()


@given(st.binary())
def test_what_is_signed_verifies(body: bytes) -> None:
    """Any body; by each of the secrets while they rotate."""
    other = new_secret()
    headers = Signer((SECRET, other)).headers("evt_1", NOW, body)
    verify(SECRET, headers, body, now=NOW)
    verify(other, headers, body, now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "evt_2"},
        {"webhook-timestamp": str(NOW + 1)},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,ä \udce4"},
        {"webhook-timestamp": "noon"},
    ],
)
def test_what_was_changed_does_not(change: dict[str, str]) -> None:
    """Id, time and signature are covered."""
    headers = Signer((SECRET,)).headers("evt_1", NOW, b"{}")
    with pytest.raises(BadSignature):
        verify(SECRET, headers | change, b"{}", now=NOW)


def test_an_old_message_is_not_believed() -> None:
    """Nor one from the future: 5 minutes either way."""
    headers = Signer((SECRET,)).headers("evt_1", NOW, b"{}")
    for now in (NOW + TOLERANCE_S, NOW - TOLERANCE_S):
        verify(SECRET, headers, b"{}", now=now)
    for now in (NOW + TOLERANCE_S + 1, NOW - TOLERANCE_S - 1):
        with pytest.raises(BadSignature, match="5 minutes"):
            verify(SECRET, headers, b"{}", now=now)


def test_each_tenant_has_a_secret_of_its_own() -> None:
    """The default tenant's is the deployment's; every other one is derived from it, and usable."""
    secrets = [tenant_secret(SECRET, tenant) for tenant in ("default", "acme", "acme-2")]
    assert secrets[0] == SECRET
    assert len({secret_bytes(secret) for secret in secrets}) == 3
    wanted = hmac.digest(secret_bytes(SECRET), b"tenant:acme", "sha256")
    assert secrets[1] == "whsec_" + base64.b64encode(wanted).decode()
    signer = Signer((SECRET,), encoded("whsk_", 32)).of_tenant("acme")
    assert signer == Signer((secrets[1],), encoded("whsk_", 32))


def test_a_missing_header_is_named() -> None:
    """Without repeating what came."""
    with pytest.raises(BadSignature, match="webhook-id"):
        verify(SECRET, {}, b"{}", now=NOW)


@pytest.mark.parametrize("size", [24, 32, 64])
def test_secrets_of_these_sizes_are_taken(size: int) -> None:
    """As the specification has them."""
    assert len(secret_bytes(encoded("whsec_", size))) == size


@pytest.mark.parametrize(
    "secret", [encoded("whsec_", 23), encoded("whsec_", 65), encoded("", 32), "whsec_ä", "whsec_", "whsec_k-_9"]
)
def test_a_bad_secret_is_refused_and_not_repeated(secret: str) -> None:
    """What a log may hold of it is nothing."""
    with pytest.raises(BadSecret) as caught:
        secret_bytes(secret)
    assert (secret.removeprefix("whsec_") or "nothing") not in str(caught.value)


@pytest.mark.parametrize("key", [encoded("whsk_", 31), encoded("whpk_", 32), "whsk_!", ""])
def test_a_bad_signing_key_is_refused(key: str) -> None:
    """32 bytes of seed, or 64 with its public key."""
    with pytest.raises(BadSecret):
        public_key(key)
    assert public_key(encoded("whsk_", 32)) == public_key(encoded("whsk_", 64))
