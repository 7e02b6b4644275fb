"""Whether a file from a stranger may be given to an engine: what it is, by its bytes, and how large it becomes.

A small file may be a huge picture: a loader holds every pixel of every frame as three floats. So sizes are read from
headers, without decoding, and refused where they are beyond what a worker should hold. Formats that only a native
library can look into (`storage.probe`) are looked at in a process of its own, which may hang, crash or grow.
"""

import asyncio
import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import anyio.to_thread
import filetype

from storage import probe
from storage.errors import MediumRefused

PROBE_S = 20.0
"""Wall clock for looking into one file."""
MOST_GIF_BLOCKS = 1_000_000
"""A GIF of 250 MB has as many when they are full."""
UNKNOWN = "application/octet-stream"

_BY_PILLOW = {"image/png": "PNG", "image/apng": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP", "image/bmp": "BMP"}
_GIF = "image/gif"


@dataclass(frozen=True, slots=True)
class Extent:
    """In pixels, of one frame; `frames` of a video may be an estimate. Zero for what a file does not have."""

    width: int = 0
    height: int = 0
    frames: int = 1
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Pixels, but for the last. A loader needs 12 bytes for each."""

    max_pixels: int = 100_000_000
    """Of a picture, or of a frame."""
    max_animation_pixels: int = 500_000_000
    """Of all frames of a picture that moves: it is loaded as a whole."""
    max_video_pixels: int = 50_000_000_000
    """Of all frames of a video: ten minutes of 1080p at 40 a second."""
    max_duration_s: float = 4 * 3600.0

    def check(self, extent: Extent, content_type: str) -> None:
        """`MediumRefused` with the limit and what is there."""
        frame = extent.width * extent.height
        total = frame * extent.frames
        most = self.max_video_pixels if content_type.startswith("video/") else self.max_animation_pixels
        if frame > self.max_pixels:
            size = f"{extent.width}×{extent.height} pixels"
            raise MediumRefused(f"{size}, at most {self.max_pixels} in a picture are allowed")
        if total > most:
            raise MediumRefused(f"{extent.frames} frames of {frame} pixels, at most {most} in all are allowed")
        if extent.duration_s > self.max_duration_s:
            raise MediumRefused(f"{extent.duration_s:.0f} s long, at most {self.max_duration_s:.0f} are allowed")


async def check_medium(path: Path, limits: MediaLimits) -> str:
    """The content type by the file's bytes. `MediumRefused` if it is broken or too large; what no loader reads as a
    picture, a video or sound passes."""
    kind = filetype.guess(str(path))  # its first bytes alone
    content_type = UNKNOWN if kind is None else str(kind.mime)
    if content_type in _BY_PILLOW:
        extent = await anyio.to_thread.run_sync(_picture, path, _BY_PILLOW[content_type])
    elif content_type == _GIF:
        extent = await anyio.to_thread.run_sync(_gif, path)
    elif content_type in (*probe.DEMUXERS, *probe.PICTURES):
        extent = await _probed(path, content_type)
    else:
        return content_type
    limits.check(extent, content_type)
    return content_type


def _picture(path: Path, kind: str) -> Extent:
    from PIL import Image

    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        try:
            with Image.open(path, formats=[kind]) as picture:
                extent = Extent(picture.width, picture.height, getattr(picture, "n_frames", 1))
                if kind == "PNG":
                    picture.verify()
                return extent
        except Image.DecompressionBombError as error:
            raise MediumRefused(str(error)) from error
        except Exception as error:  # parsers raise whatever they like on what strangers write
            raise MediumRefused(f"cannot be read as {kind}: {error}") from error


def _gif(path: Path) -> Extent:
    """By walking over its blocks: Pillow would keep each frame."""
    with path.open("rb") as file:
        header = file.read(13)
        if len(header) < 13:
            raise MediumRefused("cannot be read as GIF: it ends within its header")
        width, height = int.from_bytes(header[6:8], "little"), int.from_bytes(header[8:10], "little")
        _skip_colours(file, header[10])
        return Extent(width, height, max(1, _gif_frames(file)))


def _gif_frames(file: BinaryIO) -> int:
    frames = blocks = 0
    while (mark := file.read(1)) not in (b";", b""):
        if mark == b",":
            frames += 1
            _skip_colours(file, int.from_bytes(file.read(9)[-1:]))
            file.read(1)
        elif mark == b"!":
            file.read(1)
        else:
            raise MediumRefused("cannot be read as GIF: there is an unknown block")
        while (size := file.read(1)) not in (b"\0", b""):
            file.seek(size[0], 1)
            blocks += 1
            if blocks > MOST_GIF_BLOCKS:
                raise MediumRefused(f"more than {MOST_GIF_BLOCKS} blocks in a GIF")
    return frames


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 * 2 ** ((flags & 7) + 1), 1)


async def _probed(path: Path, content_type: str) -> Extent:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", probe.__file__, str(path), content_type),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PROBE_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise MediumRefused(f"it could not be looked into within {PROBE_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise MediumRefused(f"cannot be read as {content_type}")
    return Extent(**json.loads(said))
