"""Downloads one file: resumable, hashed while it is written, and moved into place only when complete.

The bytes go to `<file>.part`; `<file>.part.etag` identifies the content that they belong to. Only a file with the right
size and hash is renamed to its final name. A lock on the part, where the file system supports locks, prevents two syncs
from writing one file.
"""

import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import httpx
import stamina

from infra.models.manifest import HUB, Model
from infra.models.public_only import public_transport
from storage.intake.ssrf import DestinationRefused

logger = logging.getLogger(__name__)

CHUNK_BYTES = 4 * 1024**2
TIMEOUT_S = 60.0
"""Timeout for an answer or a piece of its body. The whole download has none."""
TRIES = 6
MAX_REDIRECTS = 5
_ETAG = re.compile(r'"[!#-~]{1,200}"')
"""A strong entity tag of RFC 9110: only such a tag may stand in If-Range."""
LONGEST_LENGTH = 20
"""Digits of a content-length that is believed."""

OnBytes = Callable[[int], None]
"""Called with the number of bytes on disk."""


class ModelRefused(Exception):
    """The file cannot be downloaded, or is not the expected one. The message says which, and why."""


class TryAgain(Exception):
    """A temporary fault of the server or the network."""


@dataclass(frozen=True, slots=True)
class Arrived:
    sha256: str
    size_bytes: int
    revision: str | None


class Downloader:
    """Downloads files. `token` is sent to `hub` only, never to the target of a redirect."""

    def __init__(self, *, hub: str = HUB, token: str | None = None, wait_s: float = 1.0) -> None:
        self._hub = hub
        self._token = token
        self._wait_s = wait_s

    def fetch(self, model: Model, part: Path, on_bytes: OnBytes) -> Arrived:
        """Download the whole file to `part`. Raise `ModelRefused`."""
        part.parent.mkdir(parents=True, exist_ok=True)
        with _held(part) as file:
            try:
                for attempt in stamina.retry_context(
                    on=(TryAgain, httpx.TransportError), attempts=TRIES, timeout=None, wait_initial=self._wait_s
                ):
                    with attempt:
                        return self._go_on(model, part, file, on_bytes)
            except DestinationRefused as error:  # before HTTPError, of which it is a subclass
                raise ModelRefused(f"{model.name}: {error}") from error
            except (TryAgain, httpx.HTTPError) as error:
                raise ModelRefused(f"{model.name}: {type(error).__name__}: {error}") from error
        raise AssertionError("unreachable")

    def size_of(self, model: Model) -> int | None:
        """Ask the source for the size of a file in bytes; None if it does not say. Raise `ModelRefused`."""
        try:
            with self._asked(model, 0, "") as answer:
                _check_status(model, answer)
                length = answer.headers.get("content-length", "")
        except (TryAgain, httpx.HTTPError) as error:
            raise ModelRefused(f"{model.name}: {error}") from error
        return int(length) if length.isascii() and length.isdecimal() and len(length) < LONGEST_LENGTH else None

    def _go_on(self, model: Model, part: Path, file: IO[bytes], on_bytes: OnBytes) -> Arrived:
        etag_file = part.with_name(part.name + ".etag")
        digest, have = hashlib.sha256(), 0
        known = etag_file.read_text() if etag_file.exists() else ""
        if known:
            have = _hashed(file, digest, on_bytes)
        with self._asked(model, have, known) as answer:
            if answer.status_code == 416:  # the part is complete, or longer than the source
                etag_file.unlink(missing_ok=True)
                raise TryAgain("the source has nothing to go on with")
            _check_status(model, answer)
            # A source that ignores the range, or whose file has changed, sends the whole file.
            if have and not _goes_on(answer, have):
                digest, have = hashlib.sha256(), 0
            file.seek(have)
            file.truncate()
            # Before the bytes, so that no later try continues them with other content.
            etag_file.write_text(_etag(answer))
            _check_size(model, answer, have)
            for chunk in answer.iter_raw():  # undecoded: the hash and the range count these bytes
                file.write(chunk)
                digest.update(chunk)
                have += len(chunk)
                on_bytes(have)
                if model.size_bytes is not None and have > model.size_bytes:  # its length was not stated
                    raise ModelRefused(f"{model.name}: the source sends more than {model.size_bytes} bytes")
            revision = answer.headers.get("x-repo-commit") or _first(answer).headers.get("x-repo-commit")
        file.flush()
        # The caller renames the file next, and later syncs trust its name and size.
        os.fsync(file.fileno())
        return Arrived(digest.hexdigest(), have, revision)

    @contextmanager
    def _asked(self, model: Model, have: int, etag: str) -> Iterator[httpx.Response]:
        """Yield the answer after redirects."""
        # httpx would read and decompress the whole bodies of redirects, so they are followed here.
        # A repository's files come from the hub and from where it redirects to, whoever has named them.
        is_public_only = model.named_by == "workflow" and model.url is not None
        with httpx.Client(timeout=TIMEOUT_S, transport=public_transport() if is_public_only else None) as client:
            request = client.build_request("GET", model.source(self._hub), headers=self._headers(model, have, etag))
            history: list[httpx.Response] = []
            for _ in range(MAX_REDIRECTS + 1):
                answer = client.send(request, stream=True)
                try:
                    if answer.next_request is None:
                        answer.history = history
                        yield answer
                        return
                    request = answer.next_request
                    history.append(answer)
                finally:
                    answer.close()
        raise httpx.TooManyRedirects(f"more than {MAX_REDIRECTS} redirects", request=request)

    def _headers(self, model: Model, have: int, etag: str) -> dict[str, str]:
        headers = {"accept-encoding": "identity"}
        if have:
            headers |= {"range": f"bytes={have}-", "if-range": etag}
        if self._token is not None and urlsplit(model.source(self._hub)).netloc == urlsplit(self._hub).netloc:
            headers["authorization"] = f"Bearer {self._token}"
        return headers


@contextmanager
def _held(part: Path) -> Iterator[IO[bytes]]:
    # The first creates the file and truncates nothing, but all its writes would go to the end.
    with part.open("a+b") as file, part.open("r+b") as writer:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ModelRefused(f"{part.name}: another sync is downloading it") from error
        except OSError as error:  # the file system does not support locks
            logger.warning("a download is not locked", extra={"file": part.name, "reason": str(error)})
        yield writer


def _hashed(file: IO[bytes], digest: "hashlib._Hash", on_bytes: OnBytes) -> int:
    file.seek(0)
    size = 0
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    on_bytes(size)
    return size


def _check_status(model: Model, answer: httpx.Response) -> None:
    status = answer.status_code
    if status in (200, 206):
        return
    if status >= 500 or status in (408, 429):
        raise TryAgain(f"the source answered {status}")
    if status in (401, 403):
        raise ModelRefused(
            f"{model.name}: the source answered {status}: it is gated. Accept its licence on its page, and set "
            "COMFYUI_MODAL_HUGGINGFACE_TOKEN"
        )
    raise ModelRefused(f"{model.name}: the source answered {status} for {answer.request.url.copy_with(query=None)}")


def _etag(answer: httpx.Response) -> str:
    """Return the entity tag, or an empty text for one that could not be sent back."""
    etag: str = answer.headers.get("etag", "")
    return etag if _ETAG.fullmatch(etag) else ""


def _goes_on(answer: httpx.Response, have: int) -> bool:
    return answer.status_code == 206 and answer.headers.get("content-range", "").startswith(f"bytes {have}-")


def _check_size(model: Model, answer: httpx.Response, have: int) -> None:
    length = answer.headers.get("content-length")
    if model.size_bytes is not None and length is not None and have + int(length) != model.size_bytes:
        raise ModelRefused(
            f"{model.name}: the source has {have + int(length)} bytes, the {model.named_by} says {model.size_bytes}"
        )


def _first(answer: httpx.Response) -> httpx.Response:
    """Return the answer before any redirect, in which the hub names the commit."""
    return answer.history[0] if answer.history else answer
