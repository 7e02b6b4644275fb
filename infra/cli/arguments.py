"""Arguments that several commands share."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter
from cyclopts.validators import Number

from infra.cli.output import UNREACHABLE, Refused

if TYPE_CHECKING:  # not every command with these arguments speaks HTTP
    from comfyui_modal_client import Client

DEFAULT_DATA = Path(".local")
MAX_RETRY_AFTER_S = 5.0
"""A command waits that long before it repeats a request. A longer pause is named, and left to the user."""
URL_VARIABLE = "COMFYUI_MODAL_API_URL"
KEY_VARIABLE = "COMFYUI_MODAL_API_KEY"
CONNECTION = "connection.json"
"""The file in a data folder that says how to reach the processes of `comfyui-modal up`."""

Port = Annotated[int, Parameter(help="0 takes any that is free", validator=Number(gte=0, lte=65_535))]
AsJson = Annotated[bool, Parameter(name="--json", help="print as JSON", negative="")]
Out = Annotated[Path, Parameter(help="folder for the outputs")]
ShowUrls = Annotated[
    bool, Parameter(name="--urls", help="print the outputs' presigned URLs, which need no key", negative="")
]
Environment = Annotated[
    str | None, Parameter(name="--env", help="the Modal environment; the client's default otherwise")
]
ApiUrl = Annotated[str | None, Parameter(help="where the API is; Modal is asked otherwise", env_var=URL_VARIABLE)]
ApiKey = Annotated[str | None, Parameter(help="the key to send", env_var=KEY_VARIABLE, show_default=False)]
SigningSecret = Annotated[
    str | None, Parameter(env_var="COMFYUI_MODAL_WEBHOOK_SECRET", help="the deployment's, whsec_…", show_default=False)
]
SecretFolder = Annotated[Path, Parameter(help="the folder of a running `comfyui-modal up`, whose secret is used")]

_SPAN = re.compile(r"(\d{1,5})([dhm])", re.ASCII)
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Target:
    """The API of a client command: from flags, the environment, or the data folder of a running `up`."""

    api_url: Annotated[str | None, Parameter(env_var=URL_VARIABLE, help="where the API is")] = None
    api_key: ApiKey = None
    data: Annotated[Path, Parameter(help="the folder of a running `comfyui-modal up`")] = DEFAULT_DATA

    @contextmanager
    def client(self) -> "Iterator[Client]":
        """Open a client of the API. Raises `Refused` if none is known, or if it does not answer."""
        from comfyui_modal_client import ApiUnreachable

        url, key = self.address()
        with open_client(url, key) as client:
            try:
                yield client
            except ApiUnreachable as error:
                # The bucket may be what does not answer, and its URL is no argument of the command.
                if not str(error).startswith(url.rstrip("/")):
                    raise
                raise Refused(f"{error}\n  → {self.source(url)}", UNREACHABLE) from None

    def address(self) -> tuple[str, str]:
        """Return the API's URL and the key to send. Raises `Refused`, also where they may not belong together."""
        if self.api_url and self.api_key:
            return self.api_url, self.api_key
        connection = _connection(self.data, ("api_url", "api_key"), "no API is known", "--api-url and --api-key")
        url, key = connection["api_url"], connection["api_key"]
        # A key must not go to a URL that somebody else chose: neither the key of `up` to a URL that was pasted, nor
        # the key in the environment to a URL in the file of a folder that was cloned.
        if self.api_url and self.api_url.rstrip("/") != url.rstrip("/"):
            raise Refused(f"no key is known for {self.api_url}\n  → give --api-key, or set {KEY_VARIABLE}")
        if self.api_key and not _is_loopback(url):
            raise Refused(
                f"{self.data / CONNECTION} names {url}, which is not on this machine, and your key is not sent there"
                f"\n  → give --api-url, or set {URL_VARIABLE}"
            )
        return url, self.api_key or key

    def source(self, url: str) -> str:
        """Say where the URL comes from, and what to do if it does not answer."""
        if self.api_url is None:
            return f"it is that of {self.data / CONNECTION}, whose `comfyui-modal up` may have ended: start it again"
        # cyclopts does not say which of the two it took; where both have this URL it makes no difference.
        named = URL_VARIABLE if os.environ.get(URL_VARIABLE) == url else "--api-url"
        return f"it is that of {named}: is the API running, and reachable from here?"


def open_client(url: str, key: str) -> "Client":
    """Make a client whose retries take seconds, and print nothing. Raises `ClientError` for what cannot be a key."""
    from stamina.instrumentation import set_on_retry_hooks

    from comfyui_modal_client import Client

    set_on_retry_hooks([])  # by default each is logged, which prints a line here
    return Client(url, key, max_retry_after_s=MAX_RETRY_AFTER_S)


def webhook_secret_of(data: Path) -> str:
    """Return the secret with which a running `up` signs events. Raises `Refused`."""
    return _connection(data, ("webhook_secret",), "no secret is known", "--secret")["webhook_secret"]


def span(text: str) -> timedelta | None:
    """Parse a time span such as `7d`, `12h` or `30m`. Returns None for any other text."""
    match = _SPAN.fullmatch(text)
    return None if match is None else timedelta(**{_UNITS[match[2]]: int(match[1])})


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _connection(data: Path, members: Iterable[str], problem: str, flags: str) -> dict[str, str]:
    """Return members of the folder's connection.json. Raises `Refused` with the problem, and the flags that help."""
    # `infra.local.connection.Connection` would load the settings, for which a client command has no other use.
    path = data / CONNECTION
    try:
        connection = json.loads(path.read_text())
        return {name: connection[name] for name in members}
    except (OSError, ValueError, KeyError, TypeError):
        raise Refused(
            f"{problem}: nothing runs in {data} ({path} cannot be read)\n  → start `comfyui-modal up`, or give {flags}",
            UNREACHABLE,
        ) from None
