"""Where the deployed API is to be reached, as Modal tells it."""

import logging

import modal

from infra.on_modal.names import API_FUNCTION, APP_NAME
from infra.settings import Settings

logger = logging.getLogger(__name__)


def with_public_url(settings: Settings) -> Settings:
    """For what has no request whose host it could take: the links in events."""
    return settings if settings.public_url else settings.model_copy(update={"public_url": _api_url()})


def _api_url() -> str | None:
    try:
        return modal.Function.from_name(APP_NAME, API_FUNCTION).get_web_url()
    except Exception:  # whatever Modal raises: an event with links that are relative is better than none
        logger.warning("Modal does not tell the API's URL; set COMFYUI_MODAL_PUBLIC_URL", exc_info=True)
        return None
