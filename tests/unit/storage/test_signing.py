"""Secrets and signatures of Standard Webhooks, without third-party libraries, which the interop tests cover."""

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
def test_a_signed_body_verifies(body: bytes) -> None:
    """Any signed body verifies with each of two secrets during a rotation."""
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
def test_a_changed_header_does_not_verify(change: dict[str, str]) -> None:
    """The signature covers the id and the time, and a malformed header is refused."""
    headers = Signer((SECRET,)).headers("evt_1", NOW, b"{}")
    with pytest.raises(BadSignature):
        verify(SECRET, headers | change, b"{}", now=NOW)


def test_a_timestamp_beyond_the_tolerance_is_refused() -> None:
    """A message more than 5 minutes old or in the future is refused."""
    headers = Signer((SECRET,)).headers("evt_1", NOW, b"{}")
    for now in (NOW + TOLERANCE_S, NOW - TOLERANCE_S):
        verify(SECRET, headers, b"{}", now=now)
    for now in (NOW + TOLERANCE_S + 1, NOW - TOLERANCE_S - 1):
        with pytest.raises(BadSignature, match="5 minutes"):
            verify(SECRET, headers, b"{}", now=now)


def test_each_tenant_has_its_own_secret() -> None:
    """The default tenant uses the deployment's secret, and every other tenant uses one derived from it."""
    secrets = [tenant_secret(SECRET, tenant) for tenant in ("default", "acme", "acme-2")]
    assert secrets[0] == SECRET
    assert len({secret_bytes(secret) for secret in secrets}) == 3
    wanted = hmac.digest(secret_bytes(SECRET), b"tenant:acme", "sha256")
    assert secrets[1] == "whsec_" + base64.b64encode(wanted).decode()
    signer = Signer((SECRET,), encoded("whsk_", 32)).of_tenant("acme")
    assert signer == Signer((secrets[1],), encoded("whsk_", 32))


def test_a_missing_header_is_named() -> None:
    """The error for a missing header names the header."""
    with pytest.raises(BadSignature, match="webhook-id"):
        verify(SECRET, {}, b"{}", now=NOW)


@pytest.mark.parametrize("size", [24, 32, 64])
def test_secrets_of_standard_sizes_are_accepted(size: int) -> None:
    """Secrets of 24 to 64 bytes are accepted, as Standard Webhooks specifies."""
    assert len(secret_bytes(encoded("whsec_", size))) == size


@pytest.mark.parametrize(
    "secret", [encoded("whsec_", 23), encoded("whsec_", 65), encoded("", 32), "whsec_ä", "whsec_", "whsec_k-_9"]
)
def test_a_bad_secret_is_refused_and_not_repeated(secret: str) -> None:
    """The error for an invalid secret does not contain the secret."""
    with pytest.raises(BadSecret) as caught:
        secret_bytes(secret)
    assert (secret.removeprefix("whsec_") or "nothing") not in str(caught.value)


@pytest.mark.parametrize("key", [encoded("whsk_", 31), encoded("whpk_", 32), "whsk_!", ""])
def test_a_bad_signing_key_is_refused(key: str) -> None:
    """A signing key must have a seed of 32 bytes, or 64 bytes with its public key."""
    with pytest.raises(BadSecret):
        public_key(key)
    assert public_key(encoded("whsk_", 32)) == public_key(encoded("whsk_", 64))
