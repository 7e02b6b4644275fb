"""The text of an API key: `ck_live_{kid}_{secret}_{checksum}`. Pure.

The kid names the key's record and may be logged. The checksum detects a mistyped key without a request to the bucket;
it is not secret.
"""

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass

PREFIX = "ck_live_"
KID_LENGTH = 8
SECRET_BYTES = 32
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_KID = rf"[a-z2-7]{{{KID_LENGTH}}}"
# SECRET_BYTES in base64url have 43 characters.
_KEY = re.compile(rf"(?P<signed>{PREFIX}(?P<kid>{_KID})_[A-Za-z0-9_-]{{43}})_(?P<checksum>[0-9a-f]{{8}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A presented key: the kid that it claims, and the hash of the whole key."""

    kid: str
    sha256: str


def new_kid() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(KID_LENGTH))


def new_key(kid: str) -> str:
    """Generate a new key for this kid."""
    signed = f"{PREFIX}{kid}_{secrets.token_urlsafe(SECRET_BYTES)}"
    return f"{signed}_{_checksum(signed)}"


def parse_key(text: str) -> PresentedKey | None:
    """Parse a key; return None if its form or its checksum is wrong."""
    match = _KEY.fullmatch(text)
    if match is None or match["checksum"] != _checksum(match["signed"]):
        return None
    return PresentedKey(match["kid"], sha256_of(text))


def is_kid(text: str) -> bool:
    return re.fullmatch(_KID, text, re.ASCII) is not None


def sha256_of(key: str) -> str:
    """Return the hash in hex, the form of a key's record."""
    # A slow hash would protect the key no better, because its secret has 256 random bits.
    return hashlib.sha256(key.encode()).hexdigest()


def _checksum(signed: str) -> str:
    return f"{zlib.crc32(signed.encode()):08x}"
