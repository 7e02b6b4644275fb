"""Who is asking. One key and one tenant, from the settings."""

import hmac
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Scope

from app.problems import Problem
from storage.keys import DEFAULT_TENANT

TenantOf = Callable[[Scope], str]
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="comfyui-modal"'}


def single_key(api_key: str | None) -> TenantOf:
    """The tenant of a request, by comparison in constant time. Without a key in the settings nobody gets in."""

    def tenant_of(scope: Scope) -> str:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise Problem("unauthorized", "the request has no API key", headers=_CHALLENGE)
        if api_key is None or not hmac.compare_digest(given.strip().encode(), api_key.encode()):
            raise Problem("unauthorized", "the API key is not valid", headers=_CHALLENGE)
        return DEFAULT_TENANT

    return tenant_of
