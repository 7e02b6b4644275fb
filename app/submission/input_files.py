"""Input files of a submission: decodes, fetches or resolves them and checks them before anything is stored."""

import asyncio
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import filetype

from app.body import BadBase64, BadText, Body, BodyTooLarge, TextTooLong
from app.problems import Problem
from app.services import Services
from app.submission.fetching import UrlFetching
from app.submission.request import InputValue, MediumSource
from storage.errors import CheckUnavailable, FileRefused, UploadIncomplete, UploadNotFound
from storage.jobs.models import InputFile
from workflows.errors import pointer

_FORBIDDEN_IN_NAMES = frozenset('\\\0:*?"<>|')
LONGEST_NAME_BYTES = 200
"""The longest file or folder name, in bytes of UTF-8."""
LONGEST_PATH = 255
MOST_FOLDERS = 4
"""The most folders between the engine's input folder and a file."""
CHECK_RETRY_S = 10
"""The Retry-After of a request that arrived while too many files were being checked."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that is still to be uploaded. `is_charged` is True if fetching it charged the byte quota already."""

    name: str
    path: Path
    size_bytes: int
    content_type: str
    is_charged: bool = False

    def stored(self, key: str) -> InputFile:
        """Return the file as it is once it was uploaded under `key`."""
        return InputFile(name=self.name, key=key, size_bytes=self.size_bytes, content_type=self.content_type)


PreparedFile = LocalFile | InputFile
"""An `InputFile` is a completed upload, used in place without a copy: an upload is immutable."""


class FileIntake:
    """Reads the files of one request into the temporary folder of `body`. Every method raises `Problem`."""

    def __init__(self, services: Services, tenant: str, body: Body) -> None:
        self._check, self._stores = services.media_check, services.stores
        self._fetching = UrlFetching(services, tenant, body)
        self._config = services.config
        self._tenant = tenant
        self._body = body

    async def picture(self, given: InputValue, position: int, where: str) -> LocalFile:
        """Read the file of an image input. The input is then set to the returned file's name."""
        if not isinstance(given.value, str):
            raise Problem("validation-error", f"{where} is not a string", pointer=where)
        path = self._new_file()
        if given.type == "image_url":
            file = await self._fetched("picture", given.value, path, where)
        else:
            file = await self._decoded("picture", given.value, path, where)
        # The content decides the suffix: the client names none, and loaders choose their decoder by it.
        name = f"input_{given.node}_{position}.{_extension(path)}"
        return replace(file, name=_plain(name))

    async def files(self, sources: Sequence[MediumSource], root: str) -> tuple[PreparedFile, ...]:
        """Read all `media`. `root` is the JSON pointer of `media` in the request."""
        names: set[str] = set()
        found: list[PreparedFile] = []
        for position, source in enumerate(sources):
            where = root + pointer(position)
            _check_name(source.name, f"{where}/name")
            if collides(source.name, names):
                detail = f"{source.name!r} is given twice, or is a file and a folder"
                raise Problem("duplicate-media-name", detail, pointer=f"{where}/name")
            names.add(source.name)
            found.append(await self._file(source, self._new_file(), where))
        return tuple(found)

    def _new_file(self) -> Path:
        return self._body.new_file(f"file-{uuid.uuid4().hex}")

    async def _file(self, source: MediumSource, path: Path, where: str) -> PreparedFile:
        given = [kind for kind in ("data", "url", "upload_id") if getattr(source, kind) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "none of data, url and upload_id"
            raise Problem("media-source-ambiguous", f"{source.name!r} has {said}", pointer=where)
        if source.data is not None:
            return await self._decoded(source.name, source.data, path, f"{where}/data")
        if source.url is not None:
            return await self._fetched(source.name, source.url, path, f"{where}/url")
        return await self._uploaded(source.name, source.upload_id or "", f"{where}/upload_id")

    async def _decoded(self, name: str, value: str, path: Path, where: str) -> LocalFile:
        limit = self._config.max_medium_bytes
        try:
            # A thread, because decoding reads and writes a file of up to `max_medium_bytes`.
            size = await asyncio.to_thread(self._body.spooled(value).decode_base64, path, limit)
        except BodyTooLarge:
            raise Problem("medium-too-large", f"{name!r} has more than {limit} bytes", pointer=where) from None
        except BadBase64 as error:
            raise Problem("bad-base64", f"{name!r}: {error}", pointer=where) from None
        if size == 0:
            raise Problem("bad-base64", f"{name!r} is empty", pointer=where)
        return LocalFile(name, path, size, await self._checked(name, path, where))

    async def _fetched(self, name: str, url: str, path: Path, where: str) -> LocalFile:
        try:
            address = self._body.spooled(url).text(2048)
        except (TextTooLong, BadText) as error:
            raise Problem("fetch-refused", f"{name!r}: {error}", pointer=where) from None
        size = await self._fetching.fetch(name, address, path, where)
        content_type = await self._checked(name, path, where)
        # The fetch charged the byte quota while the bytes arrived, because a server need not declare a size.
        return LocalFile(name, path, size, content_type, is_charged=True)

    async def _checked(self, name: str, path: Path, where: str) -> str:
        """Check the file and return its content type."""
        try:
            return await self._check.check(path, self._config.media_limits, tenant=self._tenant)
        except FileRefused as error:
            raise Problem("bad-medium", f"{name!r}: {error}", pointer=where) from None
        except CheckUnavailable as error:
            headers = {"Retry-After": str(CHECK_RETRY_S)}
            raise Problem("media-checks-busy", f"{name!r}: {error}", pointer=where, headers=headers) from None

    async def _uploaded(self, name: str, upload_id: str, where: str) -> InputFile:
        try:
            upload = await self._stores.uploads.resolve(self._tenant, upload_id)
        except UploadNotFound:
            raise Problem("unknown-upload", f"there is no upload {upload_id!r}", pointer=where) from None
        except UploadIncomplete as error:
            raise Problem("upload-incomplete", str(error), pointer=where) from None
        except FileRefused as error:
            raise Problem("bad-medium", f"{name!r}: {error}", pointer=where) from None
        return InputFile(name=name, key=upload.key, size_bytes=upload.size_bytes, content_type=upload.content_type)


def collides(name: str, others: Collection[str]) -> bool:
    """Report whether `name` equals one of `others`, or one of the two paths is a folder of the other."""
    return any(name == other or name.startswith(f"{other}/") or other.startswith(f"{name}/") for other in others)


def _check_name(name: str, where: str) -> None:
    """Raise `Problem` unless the name is a relative path of plain names."""
    # Loader nodes give meaning to more than `..`: drive letters, wildcards, quotes and a trailing `[output]`.
    parts = name.split("/")
    if len(name) > LONGEST_PATH or len(parts) > MOST_FOLDERS + 1 or not all(map(_is_plain, parts)):
        detail = f"{name[:100]!r} is not a plain file name, with at most {MOST_FOLDERS} plain folders before it"
        raise Problem("bad-media-name", detail, pointer=where)


def _is_plain(name: str) -> bool:
    plain = not _FORBIDDEN_IN_NAMES & set(name) and name.isprintable() and name.strip(" .") == name
    return bool(name) and plain and len(name.encode()) <= LONGEST_NAME_BYTES


def _plain(name: str) -> str:
    """Replace the characters of a node id that a file name must not contain; a node id is any text."""
    # Cut at the front, because the suffix at the end matters.
    return "".join(character if character.isalnum() or character in "._-" else "_" for character in name)[-100:]


def _extension(path: Path) -> str:
    kind = filetype.guess(str(path))
    return kind.extension if kind else "png"
