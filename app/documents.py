"""Public documents: their bytes, compressed form and ETag are made once, since a client without a key can ask for them.

They are sent in pieces, so that a client that does not read occupies one piece of memory and not the whole document.
"""

import gzip
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

PIECE_BYTES = 32 * 1024
AN_HOUR, A_DAY = "public, max-age=3600", "public, max-age=86400"
_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0+)?\s*(,|$))", re.IGNORECASE)
_READ = 1024
"""Characters of an If-None-Match or Accept-Encoding header that are read."""


@dataclass(frozen=True, slots=True)
class Document:
    """`plain` is None for a file that is stored compressed and sent so to every client."""

    plain: bytes | None
    compressed: bytes
    content_type: str
    cache_control: str = AN_HOUR
    headers: Mapping[str, str] = field(default_factory=dict)
    etag: str = field(init=False)
    """A weak one, since both forms share it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "etag", f'W/"{hashlib.sha256(self.compressed).hexdigest()[:32]}"')

    @classmethod
    def of(cls, body: bytes, content_type: str, **fields: Any) -> "Document":
        # Without a time in the compressed form the ETag, its hash, is the same in every process.
        return cls(body, gzip.compress(body, 9, mtime=0), content_type, **fields)

    @classmethod
    def of_json(cls, value: Any, content_type: str = "application/json") -> "Document":
        return cls.of(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), content_type)

    def response(self, request: Request) -> Response:
        """Return the document, or 304 if the client has it already."""
        headers = {"cache-control": self.cache_control, "etag": self.etag, "vary": "accept-encoding", **self.headers}
        known = request.headers.get("if-none-match", "")[:_READ]
        # The header may list several tags. A tag is a quoted hash, so a substring cannot match by accident.
        if self.etag in known or known.strip() == "*":
            return Response(status_code=304, headers=headers)
        accepted = request.headers.get("accept-encoding", "")[:_READ]
        if self.plain is None or _GZIP.search(accepted):
            return _in_pieces(self.compressed, headers | {"content-encoding": "gzip"}, self.content_type)
        return _in_pieces(self.plain, headers, self.content_type)


def _in_pieces(body: bytes, headers: dict[str, str], content_type: str) -> Response:
    if len(body) <= PIECE_BYTES:
        return Response(body, 200, headers, content_type)
    return StreamingResponse(_pieces(body), 200, {**headers, "content-length": str(len(body))}, content_type)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]
