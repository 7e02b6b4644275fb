"""`comfyui-modal keys create`, `keys list` and `keys revoke`. They need the bucket, not the API."""

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.table import Table

from infra.cli.arguments import DEFAULT_DATA, AsJson, span
from infra.cli.output import Refused, Terminal, print_json

if TYPE_CHECKING:  # imported when a command runs, so that its `--help` stays fast
    from infra.settings import Settings
    from storage.access.key_store import ApiKeyStore, KeyRecord
    from workflows.policy import GraphTrust

keys = App(name="keys")


Data = Annotated[
    Path | None,
    Parameter(help="the folder of a `comfyui-modal up`; otherwise COMFYUI_MODAL_BUCKET, and .local without one"),
]

NO_MORE_LOOPBACK = (
    "This is the second tenant: events no longer go to receivers on this machine (127.0.0.1, localhost). "
    "COMFYUI_MODAL_WEBHOOK_LOOPBACK=true, where `comfyui-modal up` is started, allows it for all tenants."
)


@keys.command
async def create(  # noqa: PLR0913  one a flag
    *,
    tenant: Annotated[str, Parameter(help="whose key it is: a-z, 0-9 and `-`, at most 63")],
    scopes: Annotated[
        str, Parameter(help="of jobs:read, jobs:write and admin, commas between")
    ] = "jobs:read,jobs:write",
    expires: Annotated[str | None, Parameter(help="a span (90d, 12h, 30m); for ever unless given")] = None,
    name: Annotated[str | None, Parameter(help="a note for `keys list`")] = None,
    graphs: Annotated[
        Literal["own", "strangers"] | None,
        Parameter(help="who writes the graphs that come with this key; COMFYUI_MODAL_GRAPHS unless given"),
    ] = None,
    for_settings: Annotated[
        bool, Parameter(help="store nothing, and print the record for COMFYUI_MODAL_API_KEYS", negative="")
    ] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key, and print it once: only its hash is kept."""
    key, record = _new(tenant, scopes, expires, name, graphs)
    is_second = False
    if not for_settings:
        async with _key_store(data) as (store, settings):
            # Before the key is stored, and its tenant among those that the store knows.
            is_second = settings.webhook_loopback == "one-tenant" and await _is_second_tenant(record, store, settings)
            await store.add(record)
    _print_new(key, record, as_json=as_json, with_record=for_settings)
    if is_second:
        Terminal(stderr=True).print_line(NO_MORE_LOOPBACK)


@keys.command(name="list")
async def list_keys(*, data: Data = None, as_json: AsJson = False) -> None:
    """List the keys of the bucket and of the settings: whose they are, what they may do, whether they are good."""
    async with _key_store(data) as (store, settings):
        records = [("bucket", record) for record in await store.all()]
    records += [("settings", record) for record in settings.api_keys]
    _print_all(records, as_json=as_json)
    if settings.api_key is not None and not as_json:  # it has no record, and so no kid
        Terminal(stderr=True).print_line(
            "in addition, COMFYUI_MODAL_API_KEY is a key of the tenant default, with all scopes"
        )


@keys.command
async def revoke(kid: str, *, data: Data = None, as_json: AsJson = False) -> None:
    """Revoke a key for good: every process refuses it within a minute."""
    from storage.errors import KeyNotFound

    try:
        async with _key_store(data) as (store, _):
            record = await store.revoke(kid)
    except KeyNotFound:
        raise Refused(f"the bucket has no key {kid}: see `comfyui-modal keys list`") from None
    if as_json:
        print_json(_shown(record), indent=2)
    else:
        Terminal().print_line(f"revoked {kid} of {record.tenant}: refused everywhere within a minute")


@asynccontextmanager
async def _key_store(data: Path | None) -> "AsyncIterator[tuple[ApiKeyStore, Settings]]":
    from infra.compose.stores import open_objects
    from storage.access.key_store import ApiKeyStore
    from storage.clock import SystemClock

    async with _bucket(data) as settings, open_objects(settings) as objects:
        yield ApiKeyStore(objects, SystemClock(), fixed=settings.api_keys), settings


@asynccontextmanager
async def _bucket(data: Path | None) -> "AsyncIterator[Settings]":
    from pydantic import SecretStr

    from infra.compose.values import loopback_of_up
    from infra.local.connection import Credentials
    from infra.local.data_folder import bucket_of
    from infra.settings import external_settings

    external = external_settings() if data is None else None
    if external is not None:
        yield external
        return
    async with bucket_of(data or DEFAULT_DATA) as settings:
        # The key of `up` belongs to the default tenant, which counts among the tenants too.
        of_up = SecretStr(Credentials.of(data or DEFAULT_DATA).api_key)
        yield settings.model_copy(update={"webhook_loopback": loopback_of_up(settings), "api_key": of_up})


async def _is_second_tenant(record: "KeyRecord", store: "ApiKeyStore", settings: "Settings") -> bool:
    """Return whether this record is the first of a second tenant."""
    from storage.keys import DEFAULT_TENANT

    now = datetime.now(UTC)
    live = {known.tenant for known in (*settings.api_keys, *await store.all()) if known.is_live(now)}
    tenants = live if settings.api_key is None else live | {DEFAULT_TENANT}
    return len(tenants) == 1 and record.tenant not in tenants


def _new(
    tenant: str, scopes: str, expires: str | None, name: str | None, graphs: "GraphTrust | None"
) -> tuple[str, "KeyRecord"]:
    from pydantic import ValidationError

    from storage.access.key_store import SCOPES, new_record

    named = [scope.strip() for scope in scopes.split(",")]
    wanted = [scope for scope in SCOPES if scope in named]
    if not wanted or set(named) != set(wanted):
        raise Refused(f"--scopes {scopes} is not a list of {', '.join(SCOPES)}")
    now, life = datetime.now(UTC), None if expires is None else span(expires)
    if expires is not None and not life:
        raise Refused(f"--expires {expires} is not a span: 90d, 12h or 30m")
    ends = None if life is None else now + life
    try:
        return new_record(tenant, now=now, scopes=wanted, expires_at=ends, name=name, graphs=graphs)
    except ValidationError as error:
        raise Refused("; ".join(_as_flag(item) for item in error.errors())) from None


def _as_flag(error: Mapping[str, Any]) -> str:
    return f"--{error['loc'][0]}: {error['msg'].removeprefix('Value error, ')}"


def _print_new(key: str, record: "KeyRecord", *, as_json: bool, with_record: bool = False) -> None:
    more = {"record": record.model_dump(mode="json", exclude_none=True)} if with_record else {}
    if as_json:
        print_json({"key": key, **_shown(record), **more}, indent=2)
        return
    sys.stdout.write(f"{key}\n")
    if with_record:
        sys.stdout.write(f"{json.dumps(more['record'])}\n")
    end = "never" if record.expires_at is None else record.expires_at.isoformat(timespec="seconds")
    graphs = "" if record.graphs is None else f", graphs {record.graphs}"
    Terminal(stderr=True).print_line(
        f"tenant {record.tenant}, kid {record.kid}, scopes {' '.join(record.scopes)}{graphs}, ends {end}. "
        "Keep the key: it is not shown again."
    )


def _print_all(records: "list[tuple[str, KeyRecord]]", *, as_json: bool) -> None:
    if as_json:
        print_json([_shown(record) | {"from": source} for source, record in records], indent=2)
        return
    table = Table("kid", "tenant", "scopes", "graphs", "state", "created", "ends", "from", "name", box=None)
    for source, record in records:
        ends = "never" if record.expires_at is None else f"{record.expires_at:%Y-%m-%d %H:%M}"
        created = f"{record.created_at:%Y-%m-%d %H:%M}"
        scopes, graphs = " ".join(record.scopes), record.graphs or "as set"
        table.add_row(
            record.kid, record.tenant, scopes, graphs, _state(record), created, ends, source, record.name or ""
        )
    Terminal().print(table, highlight=False, markup=False)


def _shown(record: "KeyRecord") -> dict[str, object]:
    """Return a record as people see it, without the hash."""
    return record.model_dump(mode="json", exclude={"sha256", "nonce"}) | {"state": _state(record)}


def _state(record: "KeyRecord") -> str:
    if record.revoked_at is not None:
        return "revoked"
    return "live" if record.is_live(datetime.now(UTC)) else "expired"
