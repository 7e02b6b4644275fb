"""Secrets and signatures of Standard Webhooks, without third-party libraries, which the interop tests cover."""

import base64
import hmac

import pytest

from storage.webhooks.signing import (
    BadSecret,
    Signer,
    new_secret,
    public_key,
    secret_bytes,
    tenant_secret,
)

SECRET = new_secret()


def encoded(prefix: str, size: int) -> str:
    return prefix + base64.b64encode(b"k" * size).decode()


def test_each_tenant_has_its_own_secret() -> None:
    """The default tenant uses the deployment's secret, and every other tenant uses one derived from it."""
    secrets = [tenant_secret(SECRET, tenant) for tenant in ("default", "acme", "acme-2")]
    assert secrets[0] == SECRET
    assert len({secret_bytes(secret) for secret in secrets}) == 3
    wanted = hmac.digest(secret_bytes(SECRET), b"tenant:acme", "sha256")
    assert secrets[1] == "whsec_" + base64.b64encode(wanted).decode()
    signer = Signer((SECRET,), encoded("whsk_", 32)).of_tenant("acme")
    assert signer == Signer((secrets[1],), encoded("whsk_", 32))


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
