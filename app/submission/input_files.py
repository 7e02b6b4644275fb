"""Input files of a submission: decodes, fetches or resolves them and checks them before anything is stored."""

import asyncio
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import filetype

from app.body import BadBase64, BadText, Body, BodyTooLarge, TextTooLong
from app.problems import Problem
from app.services import Services
from app.submission.fetching import UrlFetching
from app.submission.request import InputValue, MediumSource
from storage.assets import Asset
from storage.errors import AssetNotFound, CheckUnavailable, FileRefused, UploadIncomplete, UploadNotFound
from storage.jobs.models import InputFile
from workflows.errors import pointer
from workflows.location import words

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
    """A file that is still to be stored with the job. `is_charged`: the byte quota does not count it again."""

    name: str
    path: Path | str
    """A local file, or the key of an object, which is copied within the bucket."""
    size_bytes: int
    content_type: str
    is_charged: bool = False

    def stored(self, key: str) -> InputFile:
        """Return the file as it is once it was uploaded under `key`."""
        return InputFile(name=self.name, key=key, size_bytes=self.size_bytes, content_type=self.content_type)


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A completed upload or an asset, used in place without a copy: its bytes are immutable, and the job holds it."""

    file: InputFile
    kind: Literal["upload", "asset"]
    id: str


PreparedFile = LocalFile | HeldFile


class FileIntake:
    """Reads the files of one request into the temporary folder of `body`. Every method raises `Problem`."""

    def __init__(self, services: Services, tenant: str, body: Body) -> None:
        self._services, self._stores = services, services.stores
        self._fetching = UrlFetching(services, tenant, body)
        self._config = services.config
        self._tenant = tenant
        self._body = body
        self._assets: dict[str, Asset] = {}

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
        return replace(file, name=plain_name(name))

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
        given = [kind for kind in ("data", "url", "upload_id", "asset_id") if getattr(source, kind) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "none of data, url, upload_id and asset_id"
            raise Problem("media-source-ambiguous", f"{source.name!r} has {said}", pointer=where)
        if source.data is not None:
            return await self._decoded(source.name, source.data, path, f"{where}/data")
        if source.url is not None:
            return await self._fetched(source.name, source.url, path, f"{where}/url")
        if source.upload_id is not None:
            return await self._uploaded(source.name, source.upload_id, f"{where}/upload_id")
        return await self._of_asset(source.name, source.asset_id or "", f"{where}/asset_id")

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
        return await checked_file(self._services, self._tenant, name, path, where)

    async def _uploaded(self, name: str, upload_id: str, where: str) -> HeldFile:
        try:
            upload = await self._stores.uploads.resolve(self._tenant, upload_id)
        except UploadNotFound:
            raise Problem("unknown-upload", f"there is no upload {words(upload_id)}", pointer=where) from None
        except UploadIncomplete as error:
            raise Problem("upload-incomplete", str(error), pointer=where) from None
        except FileRefused as error:
            raise Problem("bad-medium", f"{name!r}: {error}", pointer=where) from None
        file = InputFile(name=name, key=upload.key, size_bytes=upload.size_bytes, content_type=upload.content_type)
        return HeldFile(file, "upload", upload_id)

    async def _of_asset(self, name: str, asset_id: str, where: str) -> PreparedFile:
        try:
            asset = await self.asset(asset_id)
        except AssetNotFound:
            raise Problem("unknown-asset", f"there is no asset {asset_id[:100]!r}", pointer=where) from None
        except UploadIncomplete as error:
            raise Problem("upload-incomplete", str(error), pointer=where) from None
        except FileRefused as error:
            raise Problem("bad-medium", f"{name!r}: {error}", pointer=where) from None
        if asset.kind == "output":
            # A copy, because the output goes with its job, which may be removed while the new one waits. The byte quota
            # counts it: one small request may name a large output many times.
            return LocalFile(name, asset.key, asset.size_bytes, asset.content_type)
        file = InputFile(name=name, key=asset.key, size_bytes=asset.size_bytes, content_type=asset.content_type)
        return HeldFile(file, asset.kind, asset_id)

    async def asset(self, asset_id: str) -> Asset:
        """Read an asset once for the whole request. Raises `StorageError`s as `AssetStore.find`."""
        if asset_id not in self._assets:
            self._assets[asset_id] = await self._stores.assets.find(self._tenant, asset_id)
        return self._assets[asset_id]

    async def asset_named(self, file_path: str) -> Asset | None:
        """Return the tenant's newest asset of this name, which is not read again by its id."""
        found = await self._stores.assets.named(self._tenant, file_path)
        if found is not None:
            self._assets[found.asset_id] = found
        return found


async def checked_file(
    services: Services, tenant: str, name: str, path: Path, where: str, *, data: bool = False
) -> str:
    """Check a file and return its content type; `data` as `MediaCheck.check`. Raises `Problem`."""
    try:
        return await services.media_check.check(path, services.config.media_limits, tenant=tenant, data=data)
    except FileRefused as error:
        raise Problem("bad-medium", f"{name!r}: {error}", pointer=where) from None
    except CheckUnavailable as error:
        headers = {"Retry-After": str(CHECK_RETRY_S)}
        raise Problem("media-checks-busy", f"{name!r}: {error}", pointer=where, headers=headers) from None


def collides(name: str, others: Collection[str]) -> bool:
    """Report whether `name` equals one of `others`, or one of the two paths is a folder of the other."""
    return any(name == other or name.startswith(f"{other}/") or other.startswith(f"{name}/") for other in others)


def is_usable_name(name: str) -> bool:
    """Whether the name is a relative path of plain names."""
    # Loader nodes give meaning to more than `..`: drive letters, wildcards, quotes and a trailing `[output]`.
    parts = name.split("/")
    return len(name) <= LONGEST_PATH and len(parts) <= MOST_FOLDERS + 1 and all(map(_is_plain, parts))


def _check_name(name: str, where: str) -> None:
    if not is_usable_name(name):
        detail = f"{name[:100]!r} is not a plain file name, with at most {MOST_FOLDERS} plain folders before it"
        raise Problem("bad-media-name", detail, pointer=where)


def _is_plain(name: str) -> bool:
    plain = not _FORBIDDEN_IN_NAMES & set(name) and name.isprintable() and name.strip(" .") == name
    return bool(name) and plain and len(name.encode()) <= LONGEST_NAME_BYTES


def plain_name(name: str) -> str:
    """Replace the characters of any text, such as a node id, that a file name must not contain."""
    # Cut at the front, because the suffix at the end matters.
    return "".join(character if character.isalnum() or character in "._-" else "_" for character in name)[-100:]


def _extension(path: Path) -> str:
    kind = filetype.guess(str(path))
    return kind.extension if kind else "png"
