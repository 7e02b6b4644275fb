"""The URL of the deployed API, as Modal reports it."""

import logging

import modal

from infra.on_modal.names import API_FUNCTION, APP_NAME
from infra.settings import Settings

logger = logging.getLogger(__name__)


def with_public_url(settings: Settings) -> Settings:
    """Set `public_url`, from which links in events are made: the deliverer has no request with a host."""
    return settings if settings.public_url else settings.model_copy(update={"public_url": _api_url()})


def _api_url() -> str | None:
    try:
        return modal.Function.from_name(APP_NAME, API_FUNCTION).get_web_url()
    except Exception:  # Modal raises many types; relative links are better than no event
        logger.warning("Modal does not report the API's URL; set COMFYUI_MODAL_PUBLIC_URL", exc_info=True)
        return None
