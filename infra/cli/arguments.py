"""Arguments that several commands share: the API to use, and time spans.

The API comes from flags, the environment, or the data folder of `comfyui-modal up`.
"""

import json
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

DEFAULT_DATA = Path(".local")


class NoConnection(Exception):
    """No API is configured. The message says what to do."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Target:
    """Common options of every client command."""

    api_url: Annotated[str | None, Parameter(env_var="COMFYUI_MODAL_API_URL", help="where the API is")] = None
    api_key: Annotated[
        str | None, Parameter(env_var="COMFYUI_MODAL_API_KEY", help="the key to send", show_default=False)
    ] = None
    data: Annotated[Path, Parameter(help="the folder of a running `comfyui-modal up`")] = DEFAULT_DATA

    def resolve(self) -> tuple[str, str]:
        """Return the URL and the key, from flags or else from connection.json. Raises `NoConnection`."""
        if self.api_url and self.api_key:
            return self.api_url, self.api_key
        path = self.data / "connection.json"
        try:
            connection = json.loads(path.read_text())
            return self.api_url or connection["api_url"], self.api_key or connection["api_key"]
        except (OSError, ValueError, KeyError):
            raise NoConnection(
                f"no API is known: nothing runs in {self.data} ({path} cannot be read)\n"
                "  → start `comfyui-modal up`, or give --api-url and --api-key"
            ) from None


def webhook_secret_of(data: Path) -> str:
    """Return the secret with which a running `up` signs events. Raises `NoConnection`."""
    path = data / "connection.json"
    try:
        secret: str = json.loads(path.read_text())["webhook_secret"]
    except (OSError, ValueError, KeyError):
        raise NoConnection(
            f"no secret is known: nothing runs in {data} ({path} cannot be read)\n"
            "  → start `comfyui-modal up`, or give --secret"
        ) from None
    return secret


_SPAN = re.compile(r"(\d{1,5})([dhm])", re.ASCII)
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def span(text: str) -> timedelta | None:
    """Parse a time span, or return None for any other text."""
    match = _SPAN.fullmatch(text)
    return None if match is None else timedelta(**{_UNITS[match[2]]: int(match[1])})
