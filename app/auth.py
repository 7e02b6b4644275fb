"""Authentication and authorization: maps the API key of a request to a `Principal`.

A key is stored in the bucket (`storage.access.key_store`), or is the key of the settings, which belongs to the default
tenant and has the scope `admin`. Every invalid key gets the same response. If the bucket does not answer, the request
is refused. The request rate of each key is limited by a token bucket, local to the process.
"""

import hmac
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from starlette.datastructures import Headers
from starlette.types import Scope

from app.config import ApiConfig
from app.problems import Problem, log_refusal
from storage.access.api_keys import sha256_of
from storage.access.key_store import ApiKeyStore, KeyRecord, KeyScope
from storage.clock import Clock
from storage.errors import LookupsBusy, StorageError
from storage.keys import DEFAULT_TENANT
from workflows.policy import GraphTrust

BURST_S = 2
"""The burst that a full bucket allows, in seconds of the rate."""
MOST_KEYS = 10_000
"""Keys with a bucket. The least recently used one is evicted, and restarts with a full bucket."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: datetime


class Rates:
    def __init__(self, per_s: float, clock: Clock) -> None:
        self._per_s = per_s
        self._capacity = max(1.0, per_s * BURST_S)  # a bucket must hold a whole token, however low the rate
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, kid: str) -> int:
        """Take one token. Returns 0, or the whole seconds after which the next token is available."""
        now = self._clock.now()
        bucket = self._buckets.setdefault(kid, _Bucket(self._capacity, now))
        self._buckets.move_to_end(kid)
        if len(self._buckets) > MOST_KEYS:
            self._buckets.popitem(last=False)
        elapsed_s = max(0.0, (now - bucket.filled_at).total_seconds())  # the wall clock may have been set back
        bucket.tokens = min(self._capacity, bucket.tokens + elapsed_s * self._per_s)
        bucket.filled_at = now
        if bucket.tokens < 1:
            return max(1, math.ceil((1 - bucket.tokens) / self._per_s))
        bucket.tokens -= 1
        return 0


KID_OF_SETTINGS = "settings"
"""The key id that logs show for the key of the settings, which has none."""

READ: KeyScope = "jobs:read"
WRITE: KeyScope = "jobs:write"
ADMIN: KeyScope = "admin"
_NEEDED: dict[str, KeyScope] = {"GET": READ, "HEAD": READ}

NO_TENANT = ""
"""Stands for what belongs to no tenant, such as requests without a valid key. No tenant has an empty name."""

METRICS_PATH = "/metrics"
COMFY_V2 = "/api/v2/"
"""The beginning of every path of Comfy API v2."""
COMFY_V2_HEALTH = "/api/v2/health"

_REALM = 'Bearer realm="comfyui-modal"'


def needs_key(path: str) -> bool:
    """Report whether the path requires an API key."""
    if path.startswith(COMFY_V2):
        return _routed(path) != COMFY_V2_HEALTH
    # The metrics path requires one even if metrics are off, so that its response does not reveal the setting.
    return path.startswith("/v1/") or _routed(path) == METRICS_PATH


def scope_for(method: str, path: str = "/v1/") -> KeyScope:
    """Return the required scope: `jobs:read` for GET and HEAD, `jobs:write` otherwise, `admin` for the metrics."""
    return ADMIN if _routed(path) == METRICS_PATH else _NEEDED.get(method.upper(), WRITE)


def _routed(path: str) -> str:
    """Return the path as the router matches it."""
    # Starlette's patterns end with `$`, which also matches before a trailing line feed.
    return path.removesuffix("\n")


@dataclass(frozen=True, slots=True)
class Principal:
    """The tenant and key of a request. Every field may be logged."""

    tenant: str
    kid: str
    scopes: frozenset[KeyScope]
    graphs: GraphTrust
    """The trust level for the graphs that this key submits."""

    def may(self, scope: KeyScope) -> bool:
        return scope in self.scopes or ADMIN in self.scopes


Recheck = Callable[[], Awaitable[Principal]]
"""Authenticates a request without an API key once more. Raises `Problem` once it is not valid any more."""
RECHECK = "recheck"
"""Where `scope["state"]` has it."""


class Doorkeeper:
    """Authenticates requests and checks their scopes and rates. Without any configured key every request is refused."""

    def __init__(self, api_keys: ApiKeyStore, config: ApiConfig, clock: Clock) -> None:
        self._api_keys = api_keys
        self._graphs = config.graphs
        self._of_settings = None if config.api_key is None else sha256_of(config.api_key)
        self._rates = None if config.max_requests_per_s is None else Rates(config.max_requests_per_s, clock)

    async def principal_of(self, scope: Scope) -> Principal:
        """Authenticate the request. Raises `Problem` for a missing, invalid, expired or revoked key."""
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # RFC 9110, 11.1: the name of a scheme is case-insensitive.
        if scheme.lower() != "bearer" or not given.strip():
            raise Problem("unauthorized", "the request has no API key", headers={"WWW-Authenticate": _REALM})
        return await self.principal_of_key(given.strip())

    async def principal_still(self, scope: Scope) -> Principal:
        """Authenticate a request again whose response goes on for long, as `principal_of` does."""
        recheck: Recheck | None = scope.get("state", {}).get(RECHECK)
        return await (self.principal_of(scope) if recheck is None else recheck())

    def check(self, principal: Principal, method: str, path: str) -> None:
        """Raise `Problem` if the key lacks the required scope or exceeds its request rate."""
        needed = scope_for(method, path)
        if not principal.may(needed):
            challenge = f'{_REALM}, error="insufficient_scope", scope="{needed}"'
            detail = f"this key has no scope {needed}"
            raise Problem("insufficient-scope", detail, headers={"WWW-Authenticate": challenge})
        wait_s = 0 if self._rates is None else self._rates.take(principal.kid)
        if wait_s:
            detail = "this key sends more requests than this deployment serves"
            raise Problem("too-many-requests", detail, headers={"Retry-After": str(wait_s)})

    async def principal_of_key(self, key: str) -> Principal:
        """Return the principal of a key. Raises `Problem` for an invalid, expired or revoked one."""
        # Digests are compared in constant time, so the response time does not reveal a prefix of the key.
        if self._of_settings is not None and hmac.compare_digest(sha256_of(key), self._of_settings):
            return self._principal_of_settings()
        record = await _looked_up(self._api_keys.authenticate(key))
        if record is None:
            challenge = f'{_REALM}, error="invalid_token"'
            raise Problem("unauthorized", "the API key is not valid", headers={"WWW-Authenticate": challenge})
        return self._principal_of_record(record)

    async def live_key(self, kid: str) -> tuple[Principal, str] | None:
        """Return the principal of a key that is valid now, and the key's hash; None for any other kid.

        Raises `Problem` if the bucket does not answer.
        """
        if kid == KID_OF_SETTINGS:
            return None if self._of_settings is None else (self._principal_of_settings(), self._of_settings)
        record = await _looked_up(self._api_keys.live(kid))
        return None if record is None else (self._principal_of_record(record), record.sha256)

    def _principal_of_settings(self) -> Principal:
        return Principal(DEFAULT_TENANT, KID_OF_SETTINGS, frozenset({ADMIN}), self._graphs)

    def _principal_of_record(self, record: KeyRecord) -> Principal:
        return Principal(record.tenant, record.kid, frozenset(record.scopes), record.graphs or self._graphs)


async def _looked_up(lookup: Awaitable[KeyRecord | None]) -> KeyRecord | None:
    """Return the result of a lookup of a key. Raises `Problem` if the bucket does not answer."""
    try:
        return await lookup
    except LookupsBusy:  # not a 401, because the key may be valid
        detail = "too many API keys that were not in use before are being looked up; send the request again"
        raise Problem("storage-unavailable", detail, headers={"Retry-After": "5"}) from None
    except StorageError as error:  # fails closed, and the client may retry
        log_refusal(error)
        detail = "the bucket does not answer, so the API key cannot be looked up"
        raise Problem("storage-unavailable", detail, headers={"Retry-After": "5"}) from None
