"""API keys: who has which, make one, revoke one. For keys with the scope `admin` alone.

A key administers its own tenant. Those of the default tenant, which belongs to the deployment, administer every one.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import Context, context_of
from app.auth import ADMIN, KID_OF_SETTINGS, NO_TENANT, Principal
from app.heavy import off_loop
from app.problems import Problem
from app.ui.guard import is_https, session_cookies
from app.ui.login import sessions_of
from app.ui.pages import render
from app.ui.routing import action, form, page, see_other, session_of
from app.ui.sessions import is_operator
from storage.access.key_store import SCOPES, KeyRecord, KeyScope, check_tenant, new_record
from storage.errors import KeyNotFound, RecordUnreadable
from storage.fair_slots import NoSlot
from workflows.policy import GraphTrust

KEYS_OF_TENANT = 100
"""Records of keys that a tenant may have before the pages make another. The command line has no limit."""
TENANTS_MAKING = 4
"""Tenants for which one process makes a key at once; of one tenant, one key at a time."""
MOST_MAKING = 8
"""Requests for keys of one tenant that wait for their turn, each for as long as requests wait for the bucket."""
LIVES = {"never": None, "30 days": 30, "90 days": 90, "1 year": 365}
"""What the form offers as the end of a key, in days."""
MEANINGS: Mapping[KeyScope, str] = {
    "jobs:read": "see jobs, results and usage",
    "jobs:write": "run, cancel and remove jobs, and send events again",
    "admin": "both, and make and revoke keys of its tenant; of the tenant default: of every tenant",
}

GRAPHS: Mapping[GraphTrust, str] = {"own": "our own team", "strangers": "strangers, whose graphs are inspected"}
"""Whose graphs come with a key, where that is not as the deployment has it."""


async def show(request: Request) -> Response:
    _admin(request)
    return await _shown(request, await _all(context_of(request)), new_key=None)


async def create(request: Request) -> Response:
    """Make a key and show it, this once. It takes the place of the tenant's oldest ended key if there is no other."""
    context, fields = context_of(request), form(request)
    principal = _admin(request)
    tenant = fields.get("tenant", "").strip() or principal.tenant
    if tenant != principal.tenant and not is_operator(principal):
        raise Problem("insufficient-scope", f"your key administers the tenant {principal.tenant} alone")
    scopes = [scope for scope in SCOPES if fields.get(f"scope.{scope}") == "on"]
    life = fields.get("life", "never")
    if life not in LIVES:
        raise Problem("validation-error", f"life is {life[:40]!r}: choose one of {', '.join(LIVES)}", pointer="/life")
    days = LIVES[life]
    now = context.stores.clock.now()
    if not scopes:
        raise Problem("validation-error", "the key has no scope: choose at least one")
    try:
        key, record = new_record(
            tenant,
            now=now,
            scopes=scopes,
            expires_at=None if days is None else now + timedelta(days=days),
            name=fields.get("name") or None,
            graphs=_graphs(fields.get("graphs", "")) if is_operator(principal) else None,
        )
        if principal.kid != KID_OF_SETTINGS:  # that one has no record and no end
            holder = await context.stores.api_keys.live(principal.kid)
            if holder is None:
                raise Problem("unauthorized", "your own key has ended")
            record = _no_wider(record, holder)
    except ValidationError as error:
        first = error.errors()[0]
        detail = f"{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}"
        raise Problem("validation-error", detail) from None
    return await _shown(request, await _added(context, record), new_key=key)


async def _added(context: Context, record: KeyRecord) -> list[KeyRecord]:
    """Store a new key's record and return all records, oldest first. Raises `Problem` if its tenant has too many.

    Ended keys are removed here alone, when the tenant needs their places: so its records are bounded, and the end of a
    key is shown for as long as possible.
    """
    try:
        async with context.key_turns.slot(record.tenant):
            records = await _all(context)
            removed = _making_room([one for one in records if one.tenant == record.tenant], context.stores.clock.now())
            await context.stores.api_keys.remove(removed)
            await context.stores.api_keys.add(record)
    except NoSlot as error:
        detail = f"too many keys of the tenant {record.tenant} are being made: {error}"
        raise Problem("too-many-requests", detail, headers={"Retry-After": "5"}) from None
    return [*(one for one in records if one.kid not in removed), record]


def _making_room(records: Sequence[KeyRecord], now: datetime) -> frozenset[str]:
    """Return the kids of a tenant's ended keys to remove for a new one, the oldest first. Raises `Problem`."""
    surplus = len(records) + 1 - KEYS_OF_TENANT
    if surplus <= 0:
        return frozenset()
    ended = [one.kid for one in records if not one.is_live(now)]
    if len(ended) < surplus:
        raise Problem("validation-error", f"the tenant has {KEYS_OF_TENANT} live keys or more: revoke one first")
    return frozenset(ended[:surplus])


def _no_wider(record: KeyRecord, holder: KeyRecord) -> KeyRecord:
    """Return the record of a new key that ends no later than its maker's key, and whose graphs have the same rules."""
    ends = [end for end in (record.expires_at, holder.expires_at) if end is not None]
    return record.model_copy(update={"expires_at": min(ends, default=None), "graphs": holder.graphs or record.graphs})


def _graphs(text: str) -> GraphTrust | None:
    return next((one for one in GRAPHS if one == text), None)


async def revoke(request: Request) -> Response:
    context, kid = context_of(request), request.path_params["kid"]
    principal = _admin(request)
    try:
        # A key of another tenant must look like one that does not exist.
        await context.stores.api_keys.revoke(kid, tenant=None if is_operator(principal) else principal.tenant)
    except (KeyNotFound, RecordUnreadable):
        raise Problem("not-found", "there is no key with this id") from None
    return see_other("/keys")


async def view_tenant(request: Request) -> Response:
    """Let an operator view another tenant: its jobs, batches, receivers and usage."""
    session, tenant = session_of(request), form(request).get("tenant", "").strip()
    if not is_operator(session.holder):
        raise Problem("insufficient-scope", "only a key of the tenant default with the scope admin sees other tenants")
    try:
        check_tenant(tenant)
    except ValueError as error:
        raise Problem("validation-error", str(error)) from None
    sessions = sessions_of(request)
    cookie = await sessions.viewing(session, tenant, is_secure=is_https(request))
    response = see_other("/jobs")
    response.headers.update(session_cookies(request, sessions, cookie))
    return response


async def _shown(request: Request, all_records: Sequence[KeyRecord], *, new_key: str | None) -> Response:
    principal, now = _admin(request), context_of(request).stores.clock.now()

    def rendered() -> Response:
        records = [
            (record, _state(record, now))
            for record in reversed(all_records)
            if is_operator(principal) or record.tenant == principal.tenant
        ]
        return render(
            request,
            "keys.html",
            records=records,
            new_key=new_key,
            is_operator=is_operator(principal),
            own_tenant=principal.tenant,
            own_kid=principal.kid,
            tenants=sorted({record.tenant for record, _ in records} | {principal.tenant}),
            scopes={scope: MEANINGS[scope] for scope in SCOPES},
            lives=list(LIVES),
            graphs=GRAPHS,
            now=now,
        )

    # In a thread, because an operator sees the keys of all tenants.
    return await off_loop(rendered)


async def _all(context: Context) -> list[KeyRecord]:
    """Return the records of all tenants, oldest first: the key of a record does not name its tenant.

    All tenants share the read, so that however many pages are requested, each record is read once at a time.
    """
    records: list[KeyRecord] = await context.shared.get(NO_TENANT, ("ui", "keys"), context.stores.api_keys.all)
    return records


def _admin(request: Request) -> Principal:
    principal = session_of(request).holder
    if not principal.may(ADMIN):
        raise Problem("insufficient-scope", "this key has no scope admin")
    return principal


def _state(record: KeyRecord, now: datetime) -> str:
    if record.revoked_at is not None:
        return "revoked"
    return "live" if record.is_live(now) else "expired"


ROUTES = (
    page("/keys", show, "show_keys"),
    action("/keys", create, "create_key"),
    action("/tenant", view_tenant, "view_tenant"),
    action("/keys/{kid}/revoke", revoke, "revoke_key"),
)
