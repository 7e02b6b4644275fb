"""Settings as the values that other rooms know, where several kinds of process want them."""

from infra.settings import Settings
from storage.jobs.record import DAY_S
from storage.untrusted.media_check import MediaLimits


def media_limits(settings: Settings) -> MediaLimits:
    return MediaLimits(
        settings.max_pixels, settings.max_animation_pixels, settings.max_video_pixels, settings.max_media_s
    )


def webhook_secrets(settings: Settings) -> tuple[str, ...]:
    """The newest first."""
    return tuple(settings.webhook_secret.get_secret_value().split()) if settings.webhook_secret else ()


def retain_s(settings: Settings) -> int:
    return round(settings.retain_days * DAY_S)
