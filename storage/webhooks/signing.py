"""Signatures of Standard Webhooks (standardwebhooks.com). Pure.

A signature covers `id.timestamp.body`. `v1` is HMAC-SHA256 with a shared secret; during a rotation there is one for
each secret. `v1a` is ed25519, for receivers that verify without a secret; others skip it.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from storage.keys import DEFAULT_TENANT

SECRET_PREFIX = "whsec_"  # noqa: S105  the prefix of secrets, not one of them
PRIVATE_KEY_PREFIX = "whsk_"
PUBLIC_KEY_PREFIX = "whpk_"
SECRET_BYTES = range(24, 65)
NEW_SECRET_BYTES = 32
_SEED_BYTES = 32


class BadSecret(ValueError):
    """The text is not a secret or key of Standard Webhooks. The message never repeats it."""


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(NEW_SECRET_BYTES)).decode()


def secret_bytes(secret: str) -> bytes:
    """Decode a secret: `whsec_` and 24 to 64 bytes in base64. Raises `BadSecret`."""
    raw = _decoded(secret, SECRET_PREFIX)
    if len(raw) not in SECRET_BYTES:
        raise BadSecret(f"a webhook secret has {SECRET_BYTES.start} to {SECRET_BYTES.stop - 1} bytes")
    return raw


def tenant_secret(secret: str, tenant: str) -> str:
    """Return the secret that signs a tenant's events: the deployment's own for the default tenant.

    For every other tenant it is HMAC-SHA256(secret, "tenant:" + name).
    """
    if tenant == DEFAULT_TENANT:
        return secret
    # A tenant cannot compute another's secret, or the deployment's, from its own, so it cannot forge events for others.
    return SECRET_PREFIX + _b64(hmac.digest(secret_bytes(secret), f"tenant:{tenant}".encode(), hashlib.sha256))


@dataclass(frozen=True, slots=True)
class Signer:
    """`hmac_secrets` are the newest first; `ed25519_key` is `whsk_` and the seed, or seed and public key, in base64."""

    hmac_secrets: Sequence[str] = ()
    ed25519_key: str | None = None

    def of_tenant(self, tenant: str) -> "Signer":
        """Return a signer with the tenant's secrets in place of the deployment's."""
        return replace(self, hmac_secrets=tuple(tenant_secret(secret, tenant) for secret in self.hmac_secrets))

    def headers(self, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """Return the signature headers. `timestamp` is in seconds since 1970; `message_id` must not contain a dot."""
        signed = f"{message_id}.{timestamp}.".encode() + body
        signatures = [f"v1,{_b64(hmac.digest(secret_bytes(s), signed, hashlib.sha256))}" for s in self.hmac_secrets]
        if self.ed25519_key is not None:
            signatures.append(f"v1a,{_b64(_private_key(self.ed25519_key).sign(signed))}")
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signatures),
        }


def public_key(private_key: str) -> str:
    """Return the public key with which receivers verify `v1a`."""
    return PUBLIC_KEY_PREFIX + _b64(_private_key(private_key).public_key().public_bytes_raw())


def _private_key(key: str):  # type: ignore[no-untyped-def]  # noqa: ANN202  its type is imported with it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    raw = _decoded(key, PRIVATE_KEY_PREFIX)
    if len(raw) not in (_SEED_BYTES, 2 * _SEED_BYTES):
        raise BadSecret("a signing key has 32 bytes, or 64 with its public key")
    return Ed25519PrivateKey.from_private_bytes(raw[:_SEED_BYTES])


def _decoded(text: str, prefix: str) -> bytes:
    if not text.startswith(prefix):
        raise BadSecret(f"it does not begin with {prefix}")
    try:
        return base64.b64decode(text.removeprefix(prefix), validate=True)
    except (ValueError, binascii.Error):
        raise BadSecret(f"what follows {prefix} is not base64") from None


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
