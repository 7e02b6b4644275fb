"""Signed tokens for the web pages: the session cookie, the CSRF token of its forms, and one-time login links. Pure.

    kid . expires . nonce . binding . tenant . signature

`binding` ties a token to one API key, so it is worth nothing for another key with the same kid, and every request looks
the key up again: a session ends when its key is revoked. `tenant` is empty, or another tenant that an operator
views, which is checked with each request as well. The signature is checked before the key is looked up, so an
invented token costs no request to the bucket. No token contains the API key.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from app.auth import ADMIN, Doorkeeper, Principal
from storage.clock import Clock
from storage.keys import DEFAULT_TENANT

SESSION_LIFE = timedelta(hours=12)
LINK_LIFE = timedelta(seconds=60)
MOST_LINKS = 20
"""Links that a key follows within `LINK_LIFE`: that many of each key are remembered as used."""
_SESSION, _LINK = "session", "link"
_DIGEST = r"[A-Za-z0-9_-]{43}"
_TOKEN = re.compile(
    rf"(?P<signed>(?P<kid>[a-z2-7]{{8}}|settings)\.(?P<expires>\d{{1,12}})\.(?P<nonce>[A-Za-z0-9_-]{{22}})"
    rf"\.(?P<binding>{_DIGEST})\.(?P<tenant>[a-z0-9-]{{0,63}}))\.(?P<signature>{_DIGEST})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Session:
    """The session of a request. `csrf` is the token that each of its forms must send back."""

    principal: Principal
    """The principal of the pages' requests, with the tenant that is viewed."""
    csrf: str
    expires_at: datetime
    holder: Principal
    """Whose key it is."""


def is_operator(principal: Principal) -> bool:
    """Return whether a key belongs to the operators of the deployment, who see and administer every tenant."""
    return principal.tenant == DEFAULT_TENANT and principal.may(ADMIN)


class Sessions:
    """Issues and checks tokens. `secret` is None where the deployment has no secret to derive one from.

    Then the process makes its own: sessions end with the process, and other processes do not know them.
    """

    def __init__(self, door: Doorkeeper, clock: Clock, secret: bytes | None) -> None:
        self._door = door
        self._clock = clock
        self._secret = secret or secrets.token_bytes(32)
        # The key and nonce of each used link, and when the link expires.
        self._used: dict[tuple[str, str], datetime] = {}
        # Browsers send cookies to every port of a host, so two deployments on one host need two names.
        self.cookie = f"comfyui-modal-{self._mac('cookie name')[:8]}"

    async def login(self, key: str, *, is_secure: bool) -> str:
        """Return the cookie of a new session. Raises `Problem` for an invalid key."""
        principal = await self._door.principal_of_key(key)
        ends_at = self._clock.now() + SESSION_LIFE
        return await self._issued(self._session_purpose(is_secure=is_secure), principal.kid, ends_at)

    async def viewing(self, session: Session, tenant: str, *, is_secure: bool) -> str:
        """Return the cookie of a session that views another tenant and ends when this one does."""
        purpose = self._session_purpose(is_secure=is_secure)
        seen = "" if tenant == session.holder.tenant else tenant
        return await self._issued(purpose, session.holder.kid, session.expires_at, tenant=seen)

    async def new_link(self, principal: Principal) -> str:
        """Return a token that `follow` exchanges for a session once."""
        return await self._issued(_LINK, principal.kid, self._clock.now() + LINK_LIFE)

    async def holder_of_link(self, token: str) -> Principal | None:
        """Return whose key a link's token is of; None for one that is invalid, expired or used."""
        found = await self._unused(token)
        return None if found is None else found[0]

    async def follow(self, token: str, *, is_secure: bool) -> str | None:
        """Return the cookie of a new session for a link's token; None for one that is invalid, expired or used."""
        found = await self._unused(token)
        if found is None:
            return None
        now, (principal, link) = self._clock.now(), found
        self._used[link] = now + LINK_LIFE
        return await self._issued(self._session_purpose(is_secure=is_secure), principal.kid, now + SESSION_LIFE)

    async def _unused(self, token: str) -> tuple[Principal, tuple[str, str]] | None:
        """Return the holder of a link's token, and what marks the link as used."""
        found = await self._checked(_LINK, token)
        if found is None:
            return None
        now, (match, principal) = self._clock.now(), found
        self._used = {link: expiry for link, expiry in self._used.items() if expiry > now}
        link = (principal.kid, match["nonce"])
        if link in self._used or sum(kid == principal.kid for kid, _ in self._used) >= MOST_LINKS:
            return None
        return principal, link

    async def session_of(self, token: str, *, is_secure: bool) -> Session | None:
        """Return the session of a cookie; None if it is invalid or expired, or its key is no longer valid.

        Raises `Problem` if the key cannot be looked up.
        """
        found = await self._checked(self._session_purpose(is_secure=is_secure), token)
        if found is None:
            return None
        match, holder = found
        seen = holder
        if match["tenant"]:
            if not is_operator(holder):
                return None
            seen = replace(holder, tenant=match["tenant"])
        expires_at = datetime.fromtimestamp(int(match["expires"]), self._clock.now().tzinfo)
        return Session(seen, self._mac("csrf", match["signed"]), expires_at, holder)

    def _session_purpose(self, *, is_secure: bool) -> str:
        # A cookie that was issued over plain HTTP is not accepted under the name of a secure one, nor the reverse.
        return f"{_SESSION} {'secure' if is_secure else 'plain'}"

    async def _issued(self, purpose: str, kid: str, expires_at: datetime, *, tenant: str = "") -> str:
        found = await self._door.live_key(kid)
        if found is None:  # revoked since it was checked
            return ""
        expires = int(expires_at.timestamp())
        signed = f"{kid}.{expires}.{secrets.token_urlsafe(16)}.{self._mac('binding', found[1])}.{tenant}"
        return f"{signed}.{self._mac(purpose, signed)}"

    async def _checked(self, purpose: str, token: str) -> tuple[re.Match[str], Principal] | None:
        match = _TOKEN.fullmatch(token)
        if match is None or not hmac.compare_digest(match["signature"], self._mac(purpose, match["signed"])):
            return None
        if int(match["expires"]) <= self._clock.now().timestamp():
            return None
        found = await self._door.live_key(match["kid"])
        if found is None or not hmac.compare_digest(match["binding"], self._mac("binding", found[1])):
            return None
        return match, found[0]

    def _mac(self, purpose: str, text: str = "") -> str:
        digest = hmac.digest(self._secret, f"{purpose}\0{text}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")
