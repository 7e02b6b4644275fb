"""Entry point of the Modal function that serves the API.

A module of its own: `infra.modal_app` imports it before the memory snapshot, which so holds what the API needs alone.
"""

import random
from typing import Any

from app.asgi import create_app
from app.heavy import yield_soon
from infra.compose.api import api_services
from infra.compose.stores import api_s3_config, make_stores
from infra.logs import configure_logging
from infra.memory import bound_malloc, freeze_heap
from infra.on_modal.adapters import ModalSignal, modal_launcher
from infra.settings import Settings
from storage.bucket.s3 import S3ObjectStore

TENANT_SHARES: dict[str, Any] = {
    "max_requests_in_flight": 100,
    "max_long_polls": 100,
    "max_unfinished_requests": 60,
}
"""Defaults on Modal. The first two, together half of API_CONCURRENCY, are all requests of one tenant that a container
works on: a tenant with more would keep all others out, since Modal admits no request to a container that is full."""


def api_settings() -> Settings:
    """Return the settings of an API container: a share of a tenant that the environment sets holds on Modal too."""
    settings = Settings()
    return settings.model_copy(update={k: v for k, v in TENANT_SHARES.items() if k not in settings.model_fields_set})


def api_application() -> Any:
    """Create the ASGI application of one API container."""
    # Containers that start from one memory snapshot share its random state and everything made at import.
    random.seed()
    bound_malloc()
    yield_soon()
    settings = api_settings()
    configure_logging("api", settings.log_level, settings.secret_values())
    stores = make_stores(settings, S3ObjectStore(api_s3_config(settings)), ModalSignal())
    application = create_app(api_services(settings, stores, modal_launcher(settings, stores)))
    freeze_heap()
    return application
