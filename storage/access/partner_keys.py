"""Clients' keys for ComfyUI's partner nodes, stored until the job's engine uses them.

A job outlives the process that accepted it, so its key must be in the bucket while the job waits. It is sealed
(AES-256-GCM) with a key derived from the deployment's webhook secrets, which are not in the bucket, and bound to its
job. The newest secret seals; each of them opens. The sealed key is deleted after the commit that ends the job, however
it ends (`storage.jobs.store`).
"""

import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from storage import keys
from storage.bucket.objects import ObjectStore, confirm_absence
from storage.errors import ObjectNotFound, SealBroken
from storage.webhooks.signing import secret_bytes

_PURPOSE = b"comfyui-modal-api partner key"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class PartnerKeyStore:
    """`webhook_secrets` are those of the settings, the newest first. Without any, no key can be sealed."""

    def __init__(self, objects: ObjectStore, webhook_secrets: Sequence[str]) -> None:
        self._objects = objects
        self._ciphers = tuple(AESGCM(_derived(secret_bytes(secret))) for secret in webhook_secrets)

    @property
    def can_seal(self) -> bool:
        return bool(self._ciphers)

    def sealed(self, tenant: str, job_id: str, partner_key: str) -> bytes:
        """Return the bytes to store under `keys.partner_key`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        # Copied below another job, the sealed key does not open.
        return nonce + self._ciphers[0].encrypt(nonce, partner_key.encode(), _bound_to(tenant, job_id))

    async def read(self, tenant: str, job_id: str) -> str:
        """Open a job's key. Raises `SealBroken` if it is missing, or its secret is no longer in the settings."""
        key = keys.partner_key(tenant, job_id)
        try:
            sealed = (await self._objects.get(key)).body
        except ObjectNotFound:
            await confirm_absence(self._objects, key)  # the job fails without it
            raise SealBroken("the partner key is no longer there") from None
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound_to(tenant, job_id)).decode()
            except (InvalidTag, ValueError):  # sealed with another of the secrets, or cut
                continue
        raise SealBroken("the partner key was sealed with a secret that this deployment no longer has")


def _derived(secret: bytes) -> bytes:
    return HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=_PURPOSE).derive(secret)


def _bound_to(tenant: str, job_id: str) -> bytes:
    return f"{tenant}/{job_id}".encode()
