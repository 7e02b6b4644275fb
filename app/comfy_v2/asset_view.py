"""The asset as Comfy API v2 shows it, and what clients say of a new one."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from app.config import ApiConfig
from app.fields import Many, Moment, RequestBody, ResponseBody
from app.numbers import Whole
from storage.assets import Asset, Reference
from storage.bucket.objects import ObjectStore

MIN_EXPIRES_S, MAX_EXPIRES_S = 60, 604_800
MAX_FILE_PATH = 255
MAX_TAGS, MAX_TAG = 16, 64
_HASH = re.compile(r"blake3:[0-9a-f]{64}")


def digest_of(text: str) -> str:
    """Return the hex digits of a hash. Raises ValueError for text that is none."""
    if not _HASH.fullmatch(text):
        raise ValueError("not a hash, written as blake3: and 64 hexadecimal digits in lower case")
    return text.removeprefix("blake3:")


def _file_path(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a name with unprintable characters")
    return text


def _tags(tags: list[str]) -> list[str]:
    if len(tags) > MAX_TAGS:
        raise ValueError(f"{len(tags)} tags, at most {MAX_TAGS} are allowed")
    return tags


FilePath = Annotated[str, StringConstraints(min_length=1, max_length=MAX_FILE_PATH), AfterValidator(_file_path)]
Hash = Annotated[str, AfterValidator(digest_of)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TAG)]


class _AssetDetails(RequestBody):
    tags: Annotated[Many[Tag], AfterValidator(_tags)] = Field(default_factory=list)
    expires_in: Whole | None = Field(
        None, ge=MIN_EXPIRES_S, le=MAX_EXPIRES_S, description="lifetime in seconds; the deployment's own if missing"
    )

    @property
    def lifetime(self) -> timedelta | None:
        return None if self.expires_in is None else timedelta(seconds=self.expires_in)


class AssetUpload(_AssetDetails):
    """The text parts of POST /api/v2/assets."""

    content_type: str = Field(max_length=200, description="the declared type; an asset has that of its bytes")
    file_path: FilePath = Field(description="the name by which graphs find it")
    expected_hash: Hash | None = Field(None, description="the upload is refused if its bytes have another hash")


class AssetFromHash(_AssetDetails):
    """What POST /api/v2/assets/from-hash takes."""

    hash: Hash
    file_path: FilePath | None = None

    def as_reference(self) -> Reference:
        return Reference(self.hash, self.file_path, tuple(self.tags), self.lifetime)


class ComfyAsset(ResponseBody):
    """`url` needs no key, until it expires."""

    id: str
    hash: str | None = Field(description="null for outputs and presigned uploads, whose bytes never came to the API")
    size_bytes: int
    content_type: str
    file_path: str | None
    tags: list[str]
    created_new: bool
    created_at: Moment
    url: str
    url_expires_at: Moment
    expires_at: Moment | None = Field(description="null for an output whose job has not ended")
    job_id: str | None


def comfy_asset(asset: Asset, objects: ObjectStore, config: ApiConfig, *, created_new: bool = False) -> ComfyAsset:
    """Return the asset with a fresh presigned URL."""
    name = (asset.file_path or "").rsplit("/", 1)[-1] or asset.asset_id
    signed = objects.presign_get(
        asset.key, expires_s=config.output_expires_s, filename=name, content_type=asset.content_type
    )
    return ComfyAsset(
        id=asset.asset_id,
        hash=None if asset.hash is None else f"blake3:{asset.hash}",
        size_bytes=asset.size_bytes,
        content_type=asset.content_type,
        file_path=asset.file_path,
        tags=list(asset.tags),
        created_new=created_new,
        created_at=asset.created_at,
        url=signed.url,
        url_expires_at=signed.expires_at,
        expires_at=asset.expires_at,
        job_id=asset.job_id,
    )
