"""URLs in settings: which of them are taken, so that none carries a secret to clients or breaks a header."""

import re
from urllib.parse import SplitResult, urlsplit

SCHEMES = ("http", "https")
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+", re.ASCII)
"""A DNS name, or an address. Other characters would end a directive of a Content-Security-Policy."""
_PORTS = {"http": 80, "https": 443}


def base_url(text: str) -> str:
    """Return the URL. Raises ValueError, without the text, if it is no base to which paths can be added."""
    _split(text)
    if "?" in text or "#" in text:
        raise ValueError("a base URL has no query (?) and no fragment (#): paths are added to it")
    return text


def web_origin(text: str) -> str:
    """Return the origin of pages, or `*` for all. Raises ValueError for a text that no browser sends as an origin."""
    if text != "*" and text != origin_of(_split(text)):
        raise ValueError(
            "not an origin as browsers send it, https://app.example: in lower case, without a path or a slash at the "
            "end, and without the usual port"
        )
    return text


def origin_of(parts: SplitResult) -> str:
    """Return scheme, host and port as browsers write them, and no user or password."""
    host = parts.hostname or ""
    port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def _split(text: str) -> SplitResult:
    # First: `urlsplit` drops line ends and tabs.
    if not re.fullmatch(r"[!-~]+", text) or "\\" in text:
        raise ValueError("a URL has no spaces, line ends, backslashes or characters beyond ASCII")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("not a URL: its host or port is malformed") from None
    if parts.scheme not in SCHEMES:
        raise ValueError("not a URL that begins with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("a URL with a user name or password is not taken: answers and logs would show them")
    if not _HOST.fullmatch(parts.hostname or "") or port == 0:
        raise ValueError("not a URL: its host or port is missing or malformed")
    return parts
