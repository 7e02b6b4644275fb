"""Whether a file from a stranger may be given to an engine: what it is, by its bytes, and how large it becomes.

A small file may be a huge picture: a loader holds every pixel of every frame as three floats. So sizes are read from
headers, frames are counted, without decoding, and refused where they are beyond what a worker should hold. An engine
asks no first bytes, but every decoder that it has: so what is not one of a few plain formats is shown to all of ours,
in a process of its own (`storage.untrusted.probe`), which may hang, crash or grow.
"""

import asyncio
import json
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import filetype

from storage.errors import MediumRefused
from storage.untrusted import probe

PROBE_S = 20.0
"""Wall clock for looking into one file."""
MOST_GIF_BLOCKS = 1_000_000
"""A GIF of 250 MB has as many when they are full."""
UNKNOWN = "application/octet-stream"

_BY_PILLOW = {"image/png": "PNG", "image/apng": "PNG", "image/jpeg": "JPEG", "image/bmp": "BMP"}
_GIF = "image/gif"
_GIF_COMMENT = b"\xfe"


@dataclass(frozen=True, slots=True)
class Extent:
    """In pixels, of the largest frame; `frames` of that size have as many as all. Zero for what a file lacks."""

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
    max_video_pixels: int = 8_000_000_000
    """Of all frames of a video: a minute of 1080p at 60 a second, and 96 GB as floats, which few workers have."""
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
        extent = await asyncio.to_thread(_picture, path, _BY_PILLOW[content_type], limits)
        limits.check(extent, content_type)
        return content_type
    if content_type == _GIF:
        limits.check(await asyncio.to_thread(_gif, path), content_type)
    return await _probed(path, content_type, limits)


def _picture(path: Path, kind: str, limits: MediaLimits) -> Extent:
    from PIL import Image

    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        try:
            with Image.open(path, formats=[kind]) as picture:
                extent = Extent(picture.width, picture.height, getattr(picture, "n_frames", 1))
                if picture.format == "MPO":  # a JPEG whose other frames have sizes of their own
                    return _with_frames(picture, extent, limits)
                if kind == "PNG":
                    picture.verify()
                return extent
        except Image.DecompressionBombError as error:
            raise MediumRefused(str(error)) from error
        except Exception as error:  # parsers raise whatever they like on what strangers write
            raise MediumRefused(f"cannot be read as {kind}: {error}") from error


def _with_frames(picture: Any, first: Extent, limits: MediaLimits) -> Extent:
    for number in range(1, first.frames):
        picture.seek(number)
        limits.check(Extent(picture.width, picture.height, first.frames), "image/jpeg")
    return first


def _gif(path: Path) -> Extent:
    """By walking over its blocks, as its specification says. What others make of it is looked at besides."""
    with path.open("rb") as file:
        header = file.read(13)
        if len(header) < 13:
            raise MediumRefused("cannot be read as GIF: it ends within its header")
        width, height = int.from_bytes(header[6:8], "little"), int.from_bytes(header[8:10], "little")
        _skip_colours(file, header[10])
        return _gif_frames(file, width, height)


def _gif_frames(file: BinaryIO, width: int, height: int) -> Extent:
    """A frame that reaches beyond the picture makes it larger."""
    frames = blocks = 0
    while (mark := file.read(1)) not in (b";", b""):
        label = b""
        if mark == b",":
            frames += 1
            about = file.read(9)
            left, top, across, down = (int.from_bytes(about[at : at + 2], "little") for at in (0, 2, 4, 6))
            width, height = max(width, left + across), max(height, top + down)
            _skip_colours(file, int.from_bytes(about[-1:]))
            file.read(1)
        elif mark == b"!":
            label = file.read(1)
        else:
            raise MediumRefused("cannot be read as GIF: there is an unknown block")
        count = _skip_blocks(file)
        if not count and label not in (b"", _GIF_COMMENT):
            raise MediumRefused("cannot be read as GIF: an extension is empty")  # some read on behind it, some do not
        blocks += count
        if blocks > MOST_GIF_BLOCKS:
            raise MediumRefused(f"more than {MOST_GIF_BLOCKS} blocks in a GIF")
    return Extent(width, height, max(1, frames))


def _skip_blocks(file: BinaryIO) -> int:
    """How many there are, up to the empty one that ends them."""
    count = 0
    while (size := file.read(1)) not in (b"\0", b"") and count <= MOST_GIF_BLOCKS:
        file.seek(size[0], 1)
        count += 1
    return count


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 * 2 ** ((flags & 7) + 1), 1)


async def _probed(path: Path, content_type: str, limits: MediaLimits) -> str:
    """The content type, by Pillow where the first bytes tell nothing."""
    found = await _said(path, content_type, limits)
    if (picture := found["picture"]) is not None:
        by_pillow = picture.pop("content_type") or content_type
        limits.check(Extent(**picture), by_pillow)
        content_type = by_pillow if content_type == UNKNOWN else content_type
    if found["stream"] is not None:
        limits.check(Extent(**found["stream"]), content_type if content_type in probe.DEMUXERS else "video/x-unknown")
    return content_type


async def _said(path: Path, content_type: str, limits: MediaLimits) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", probe.__file__, str(path), content_type, json.dumps(asdict(limits))),
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
    found: dict[str, Any] = json.loads(said)
    return found
