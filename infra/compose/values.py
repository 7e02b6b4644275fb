"""Conversions of settings into values of other rooms that several kinds of process need."""

from urllib.parse import urlsplit

from infra.settings import Settings
from storage.access.key_store import ApiKeyStore
from storage.bucket.disk import BucketDisk
from storage.jobs.record import DAY_S
from storage.keys import DEFAULT_TENANT
from storage.webhooks.receivers import Loopback, ReceiverRules


def webhook_secrets(settings: Settings) -> tuple[str, ...]:
    """Return the webhook secrets, newest first."""
    return tuple(settings.webhook_secret.get_secret_value().split()) if settings.webhook_secret else ()


def retain_s(settings: Settings) -> int:
    return round(settings.retain_days * DAY_S)


def receiver_rules(settings: Settings, api_keys: ApiKeyStore) -> ReceiverRules:
    return ReceiverRules(
        api_keys,
        loopback=settings.webhook_loopback,
        own_ports=own_ports(settings),
        named=() if settings.api_key is None else (DEFAULT_TENANT,),  # this key has no record
    )


def loopback_of_up(settings: Settings) -> Loopback:
    """Return the rule for loopback receivers. `up` allows those of a single tenant unless the setting is given."""
    return settings.webhook_loopback if "webhook_loopback" in settings.model_fields_set else "one-tenant"


def bucket_disk(settings: Settings) -> BucketDisk | None:
    """Return the disk of a local bucket, whose free space is checked; None for a remote bucket."""
    return None if settings.bucket_dir is None else BucketDisk(settings.bucket_dir, settings.min_free_bytes)


def own_ports(settings: Settings) -> frozenset[int]:
    """Return the local ports on which this deployment listens, as far as the settings name them."""
    urls = (settings.s3_endpoint, settings.s3_public_endpoint, settings.public_url, settings.engine)
    named = (_local_port(url) for url in urls if url is not None)
    return frozenset(settings.refused_ports) | {port for port in named if port is not None}


def _local_port(url: str) -> int | None:
    """Return the port of a loopback URL; None for any other text."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return None
    is_local = parts.hostname in ("localhost", "::1", "0.0.0.0") or parts.hostname.startswith("127.")  # noqa: S104  compared, not bound
    return (parts.port or (443 if parts.scheme == "https" else 80)) if is_local else None
