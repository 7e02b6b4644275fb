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


def api_application() -> Any:
    """Create the ASGI application of one API container."""
    # Containers that start from one memory snapshot share its random state and everything made at import.
    random.seed()
    bound_malloc()
    yield_soon()
    settings = Settings()
    configure_logging("api", settings.log_level, settings.secret_values())
    stores = make_stores(settings, S3ObjectStore(api_s3_config(settings)), ModalSignal())
    application = create_app(api_services(settings, stores, modal_launcher(settings, stores)))
    freeze_heap()
    return application
