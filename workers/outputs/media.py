"""Reads an output's type, dimensions and duration from its bytes. An unreadable file does not fail the job."""

import hashlib
import logging
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filetype
from PIL import Image

from storage.formats import PILLOW, STREAM_OPTIONS
from storage.intake.walkers import gif_extent, webp_extent

logger = logging.getLogger(__name__)

HASH_CHUNK = 1024 * 1024
LARGEST_FRAME = 100_000_000
LARGEST_ANIMATION = 1_000_000_000
"""Maximum pixels, per frame and in total. The frames of a larger animation are not decoded and it gets no duration: a
GIF of some hundred bytes can be as large, and its decoding would take longer than its job."""
MOST_FRAMES = 10_000
_WALKERS = {"image/gif": gif_extent, "image/webp": webp_extent}
"""Types that are not measured with Pillow, which reads all frames of a GIF and allocates a WebP's whole canvas."""

_BY_EXTENSION = {
    ".flac": "audio/flac",
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".json": "application/json",
    ".obj": "model/obj",
    ".opus": "audio/ogg",
    ".ply": "model/ply",
    ".stl": "model/stl",
    ".webp": "image/webp",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """A file's metadata. Videos and animations have `duration_s` and `frames`; sizes are in pixels."""

    size_bytes: int
    sha256: str
    content_type: str
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    frames: int | None = None


def examine(path: Path, filename: str, content_type: str | None = None) -> Facts:
    """Return a file's metadata. The call blocks: run it in a thread. Raises `OSError` if the file is not readable.

    `content_type` overrides the detected type.
    """
    content_type = content_type or content_type_of(path, filename)
    seen: dict[str, Any] = {}
    try:
        if content_type.startswith("image/") and content_type != "image/svg+xml":
            seen = _picture(path, content_type)
        elif content_type.startswith(("video/", "audio/")):
            seen = _stream(path)
    except Exception as error:  # decoders raise arbitrary errors on nodes' files
        logger.info("could not look into %s: %s: %s", filename, type(error).__name__, error)
    return Facts(path.stat().st_size, sha256_of(path), content_type, **seen)


def content_type_of(path: Path, filename: str) -> str:
    """Return the type by the first bytes, else by the name's extension."""
    guess = filetype.guess(str(path))
    if guess is not None:
        return str(guess.mime)
    extension = Path(filename).suffix.lower()
    return _BY_EXTENSION.get(extension) or mimetypes.guess_type(filename)[0] or "application/octet-stream"


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _picture(path: Path, content_type: str) -> dict[str, Any]:
    if content_type in _WALKERS:
        with path.open("rb") as file:
            width, height, frames = _WALKERS[content_type](file)
        if not _may_be_decoded(width * height, frames):
            return {"width": width, "height": height, "frames": frames}
    Image.MAX_IMAGE_PIXELS = None  # upscalers write more than Pillow's limit; only the header is read here
    with Image.open(path, formats=PILLOW) as picture:
        frames = getattr(picture, "n_frames", 1)
        seen: dict[str, Any] = {"width": picture.width, "height": picture.height, "frames": frames}
        if frames > 1 and _may_be_decoded(picture.width * picture.height, frames):
            seen["duration_s"] = _animation_s(picture, frames)
        return seen


def _may_be_decoded(pixels: int, frames: int) -> bool:
    return pixels <= LARGEST_FRAME and pixels * frames <= LARGEST_ANIMATION and frames <= MOST_FRAMES


def _animation_s(picture: Image.Image, frames: int) -> float | None:
    total_ms = 0.0
    for frame in range(frames):
        picture.seek(frame)
        picture.load()  # Pillow has a WebP frame's duration only after decoding it
        total_ms += picture.info.get("duration", 0)
    return round(total_ms / 1000, 3) or None


def _stream(path: Path) -> dict[str, Any]:
    import av

    with av.open(str(path), options=STREAM_OPTIONS) as container:
        seconds = None if container.duration is None else round(container.duration / av.time_base, 3)
        if not container.streams.video:
            return {"duration_s": seconds}
        video = container.streams.video[0]
        frames = video.frames or sum(1 for packet in container.demux(video) if packet.size)
        return {"width": video.width, "height": video.height, "duration_s": seconds, "frames": frames}
