"""Verification of webhooks: Standard Webhooks (standardwebhooks.com), `v1` signatures.

A signature is HMAC-SHA256 over `id.timestamp.body`. The deployment may sign with ed25519 as well (`v1a`). Those
signatures are skipped here, because they need a library for elliptic curves.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping, Sequence

from comfyui_modal_client._errors import WebhookRejected
from comfyui_modal_client._types import Json

SECRET_PREFIX = "whsec_"  # noqa: S105  the prefix of secrets, not one of them
MIN_KEY_BYTES = 24  # as Standard Webhooks requires
TOLERANCE_S = 5 * 60.0
_TIMESTAMP = re.compile(r"\d{1,12}", re.ASCII)


def verify_webhook(
    secret: str | Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance_s: float = TOLERANCE_S,
    now: float | None = None,
) -> Json:
    """Verify a webhook and return its event, a CloudEvent: `id`, `type`, `data` and others.

    `secret` is `whsec_…`, or several of them while secrets rotate. `headers` may have names in any case. `body` must be
    the bytes exactly as they arrived. The timestamp may be `tolerance_s` seconds off; `now` is in seconds since 1970,
    by default the time of this machine.

    An event can arrive twice, with the same `id`. Raises `WebhookRejected` with the reason, and ValueError if `secret`
    is no webhook secret.
    """
    secrets = [_key(one) for one in ([secret] if isinstance(secret, str) else secret)]
    given = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, timestamp = given["webhook-id"], given["webhook-timestamp"]
        signatures = given["webhook-signature"].split()
    except KeyError as missing:
        raise WebhookRejected(f"the header {missing.args[0]} is missing") from None
    if not _TIMESTAMP.fullmatch(timestamp):
        raise WebhookRejected("the header webhook-timestamp is not a number of seconds since 1970")
    if abs((time.time() if now is None else now) - int(timestamp)) > tolerance_s:
        raise WebhookRejected(f"the timestamp is more than {tolerance_s:g} seconds off")
    signed = f"{message_id}.{timestamp}.".encode(errors="replace") + body
    expected = [b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)) for key in secrets]
    # Every pair is compared in constant time.
    matches = [hmac.compare_digest(one, other.encode(errors="replace")) for one in expected for other in signatures]
    if not any(matches):
        raise WebhookRejected("no signature was made with this secret")
    try:
        event = json.loads(body)
    except ValueError:
        raise WebhookRejected("the body is not JSON") from None
    if not isinstance(event, dict):
        raise WebhookRejected("the body is not a JSON object")
    return event


def _key(secret: str) -> bytes:
    """Decode a secret. The message of the error never repeats it."""
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(f"a webhook secret begins with {SECRET_PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"what follows {SECRET_PREFIX} in a webhook secret is base64") from None
    if len(key) < MIN_KEY_BYTES:
        # Anyone can sign with the empty key of a secret whose variable was not set.
        raise ValueError(f"a webhook secret has at least {MIN_KEY_BYTES} bytes, and this one has {len(key)}")
    return key
