"""Builds the API from the settings and the stores."""

import hashlib
import logging
from dataclasses import replace
from functools import partial

from app.config import ApiConfig, ApiOptions
from app.findings import Finding
from app.services import Services
from infra.compose.values import bucket_disk, own_ports, receiver_rules, retain_s
from infra.secrecy import Redactor
from infra.settings import Settings
from storage.intake.fetch import FetchPlaces, RemoteFetcher
from storage.intake.media_check import MediaCheck
from storage.launcher import Launcher
from storage.stores import Stores
from storage.webhooks.signing import public_key
from workflows.library import library
from workflows.policy import NodePolicy

logger = logging.getLogger(__name__)


def api_services(settings: Settings, stores: Stores, launcher: Launcher, *, is_of_up: bool = False) -> Services:
    """`is_of_up`: the API is a process of `comfyui-modal up`, whose fetches may reach listed ports of the machine."""
    # Elsewhere the machine is not its users' own, and a client's URL could reach what listens there.
    loopback_ports = settings.fetch_loopback_ports if is_of_up else ()
    if settings.fetch_loopback_ports and not is_of_up:
        logger.warning("COMFYUI_MODAL_FETCH_LOOPBACK_PORTS has no effect: it is for `comfyui-modal up` alone")
    return Services(
        config=api_config(settings),
        stores=stores,
        launcher=launcher,
        fetcher=RemoteFetcher(own_ports=own_ports(settings), loopback_ports=loopback_ports),
        fetch_places=FetchPlaces(
            requests=settings.fetching_requests,
            of_tenant=settings.fetching_requests_of_tenant,
            of_host=settings.fetches_of_host,
        ),
        media_check=MediaCheck(
            settings.max_media_checks,
            max_waiting=settings.max_waiting_media_checks,
            wait_s=settings.media_check_wait_s,
        ),
        receivers=receiver_rules(settings, stores.api_keys),
        workflows=library(settings.workflows_dir),
        disk=bucket_disk(settings),
        examine_bucket=partial(_bucket_findings, settings, stores),
    )


async def _bucket_findings(settings: Settings, stores: Stores) -> list[Finding]:
    """Run the doctor's checks of the bucket. Their texts come from libraries too, so they are redacted."""
    # Imported when it is asked for: an API that is never asked starts without it.
    from infra.doctor import BucketChecks
    from infra.findings import examine

    redacted = Redactor(settings.secret_values())
    checks = BucketChecks(stores.objects, stores.clock, lease_s=settings.lease_s)
    found = [finding async for finding in examine(checks.gate())]
    if all(finding.holds for finding in found):
        found += [finding async for finding in examine(checks.guarantees())]
    return [replace(finding, detail=redacted(finding.detail)) for finding in found]


def api_config(settings: Settings) -> ApiConfig:
    options = {name: getattr(settings, name) for name in ApiOptions.model_fields}
    return ApiConfig(
        **options,
        api_key=settings.api_key.get_secret_value() if settings.api_key else None,
        session_secret=_session_secret(settings),
        node_policy=NodePolicy.parse(settings.denied_nodes),
        retain_s=retain_s(settings),
        gpu_pools=tuple(settings.gpu_pools),
        webhook_public_keys=_public_keys(settings),
        signs_webhooks=settings.webhook_secret is not None or settings.webhook_signing_key is not None,
    )


def _session_secret(settings: Settings) -> bytes | None:
    """Return the secret that signs sessions of the pages, the same in all API processes; None without any secret."""
    # Derived instead of stored: who can read the bucket must not be able to log in, and a new secret of the deployment
    # ends all sessions.
    values = settings.secret_values()
    return hashlib.sha256("\0".join(("comfyui-modal sessions", *values)).encode()).digest() if values else None


def _public_keys(settings: Settings) -> tuple[str, ...]:
    key = settings.webhook_signing_key
    return () if key is None else (public_key(key.get_secret_value()),)
