"""Checks an untrusted file before an engine gets it: its format, by its bytes, and its decoded size.

A small file may be a huge image: a loader holds every pixel of every frame as three floats. So sizes are read from
headers and frames are counted without decoding; files above a worker's limits are refused. Only listed formats pass
(`storage.formats`). A file that is not a simple image is examined in a separate process (`storage.intake.probe`), which
may hang, crash or grow. The number of these processes is limited; further files wait.
"""

import asyncio
import json
import os
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydantic import BaseModel, ConfigDict, Field

import comfyui_modal
from storage.bounds import Count, Seconds
from storage.errors import CheckUnavailable, FileRefused
from storage.fair_slots import FairSlots, NoSlot
from storage.formats import HEAD_BYTES, listed_format
from storage.intake import probe
from storage.intake.host_paths import HostPaths
from storage.intake.limited_reads import LimitedReads
from storage.intake.walkers import MAX_PNG_CHUNK, has_light_header

PROBE_S = 120.0
"""Wall-clock limit of one probe, which has 15 s of CPU time. Only an overloaded machine takes longer."""
HEADERS_AT_ONCE = 4
"""Simple images whose headers are read concurrently: the texts of a PNG may take 64 MB of memory."""
_BY_HEADER = {"image/png": "PNG", "image/apng": "PNG", "image/jpeg": "JPEG", "image/bmp": "BMP"}
_PROBE_VARIABLES = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")


def default_probes() -> int:
    """Return the default number of probes: one per CPU core of this process, at least 2 and at most 4."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, min(cores, 4))


@dataclass(frozen=True, slots=True)
class Extent:
    """The width and height of the largest frame, the `pixels` of all frames and the `samples` of all channels.

    A value that the file does not have is zero.
    """

    width: int = 0
    height: int = 0
    frames: int = 1
    pixels: int = 0
    samples: int = 0
    duration_s: float = 0.0


class MediaLimits(BaseModel):
    """Limits of decoded sizes. A loader needs 12 bytes per pixel and 4 per sample of each channel."""

    model_config = ConfigDict(frozen=True)

    max_pixels: Count = Field(100_000_000, description="most pixels of a picture, or of one frame")
    max_animation_pixels: Count = Field(
        500_000_000, description="most pixels of all frames of a picture that moves, 4,096 at least for each"
    )
    # A loader keeps objects and a mask for each frame, however small it is.
    max_frames: Count = Field(10_000, description="most frames of a picture that moves")
    # A minute of 1080p at 60 fps, or 96 GB as floats, which few workers have.
    max_video_pixels: Count = Field(8_000_000_000, description="most pixels of all frames of a video")
    # About 6 hours of stereo, or 8 GB.
    max_samples: Count = Field(2_000_000_000, description="most samples of a sound, of all its channels")
    max_media_s: Seconds = Field(4 * 3600.0, description="longest video or sound, seconds")

    def check(self, extent: Extent, content_type: str) -> None:
        """Raise `FileRefused` with the limit and the actual value if a limit is exceeded."""
        frame = extent.width * extent.height
        most = self.max_video_pixels if content_type.startswith("video/") else self.max_animation_pixels
        if frame > self.max_pixels:
            size = f"{extent.width}×{extent.height} pixels"
            raise FileRefused(f"{size}, at most {self.max_pixels} in a picture are allowed")
        if content_type.startswith("image/") and extent.frames > self.max_frames:
            raise FileRefused(f"{extent.frames} frames, at most {self.max_frames} are allowed in a picture that moves")
        if extent.pixels > most:
            raise FileRefused(
                f"{extent.frames} frames of up to {frame} pixels, at most {most} in all are allowed, "
                f"and each counts for {probe.LEAST_FRAME_PIXELS} at least"
            )
        if extent.samples > self.max_samples:
            raise FileRefused(
                f"{extent.samples} samples or more in all channels, at most {self.max_samples} are allowed"
            )
        if extent.duration_s > self.max_media_s:
            raise FileRefused(f"{extent.duration_s:.0f} s long, at most {self.max_media_s:.0f} are allowed")


class MediaCheck:
    """Checks files in one process and event loop.

    Files wait for one of `probes` processes, fairly between tenants and all but one of
    them for one tenant; `max_waiting` and `wait_s` limit the wait.
    """

    def __init__(
        self, probes: int | None = None, *, max_waiting: int | None = None, wait_s: float | None = None
    ) -> None:
        total = probes or default_probes()
        # A hostile file takes a probe for seconds, so one probe is left to other tenants.
        self._probes = FairSlots(total, each=max(1, total - 1), max_waiting=max_waiting, wait_s=wait_s)
        self._headers = FairSlots(HEADERS_AT_ONCE, each=HEADERS_AT_ONCE - 1)

    async def check(self, path: Path, limits: MediaLimits, *, tenant: str = "", data: bool = False) -> str:
        """Check a file and return its content type by its bytes.

        `data` also accepts 3D models, safetensors and JSON. Raises `FileRefused` for a file that is of no listed
        format, broken or too large, and `CheckUnavailable` if this process could not examine it.
        """
        try:
            return await self._checked(path, limits, tenant, data=data)
        except FileRefused as refused:  # a decoder's message may contain the path
            raise FileRefused(HostPaths({path: "the file"}).hidden(str(refused))) from refused

    async def _checked(self, path: Path, limits: MediaLimits, tenant: str, *, data: bool) -> str:
        content_type = await asyncio.to_thread(_content_type, path, data=data)
        if content_type in _BY_HEADER:
            async with self._headers.slot(tenant):
                extent = await asyncio.to_thread(_picture, path, _BY_HEADER[content_type], limits)
            if extent is not None:
                return content_type
        for found in await self._probed(path, content_type, limits, tenant):
            limits.check(Extent(**found), content_type)
        return content_type

    async def _probed(self, path: Path, content_type: str, limits: MediaLimits, tenant: str) -> list[dict[str, Any]]:
        try:
            async with self._probes.slot(tenant):
                answer = await _answer_of_probe(path, content_type, limits)
        except NoSlot as error:
            raise CheckUnavailable(f"too many files are being examined: {error}") from error
        if "refused" in answer:
            raise FileRefused(answer["refused"])
        extents: list[dict[str, Any]] = answer["extents"]
        return extents


def _content_type(path: Path, *, data: bool) -> str:
    with path.open("rb") as file:
        return listed_format(file.read(HEAD_BYTES), path.stat().st_size, data=data)


def _picture(path: Path, kind: str, limits: MediaLimits) -> Extent | None:
    """Return the extent of an image by its header, within the limits.

    None means that the probe must examine it: the header is expensive, or a JPEG has several images of different sizes.
    """
    from PIL import Image, UnidentifiedImageError

    with path.open("rb") as file, warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        if not has_light_header(file, kind):
            return None
        file.seek(0)
        try:
            with Image.open(cast(BinaryIO, LimitedReads(file, each=MAX_PNG_CHUNK)), formats=[kind]) as picture:
                if picture.format == "MPO":
                    return None
                frames = getattr(picture, "n_frames", 1)
                pixels = probe.counted(*picture.size) * frames if frames > 1 else picture.width * picture.height
                extent = Extent(picture.width, picture.height, frames, pixels)
                if kind == "PNG":
                    picture.verify()
        except Image.DecompressionBombError as error:
            raise FileRefused(str(error)) from error
        except UnidentifiedImageError as error:  # whose message has the object that it was read from
            raise FileRefused(f"cannot be read as {kind}: its header is broken") from error
        except Exception as error:  # parsers raise arbitrary errors on untrusted files
            raise FileRefused(f"cannot be read as {kind}: {error}") from error
    limits.check(extent, f"image/{kind.lower()}")
    return extent


async def _answer_of_probe(path: Path, content_type: str, limits: MediaLimits) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *comfyui_modal.command(probe.__name__, str(path), content_type, limits.model_dump_json()),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=probe_environment(),
    )
    try:
        async with asyncio.timeout(PROBE_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise CheckUnavailable(f"a file could not be examined within {PROBE_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    match process.returncode:
        case 0:
            answer: dict[str, Any] = json.loads(said)
            return answer
        case code if code == -signal.SIGXCPU:
            raise FileRefused(f"it takes more than {probe.CPU_S} s of computing to be examined")
        case code if code == -signal.SIGKILL:  # by the system for a lack of memory: the probe's own limit ends it first
            raise CheckUnavailable("the system ended the examination of a file")
        case code if code is not None and code < 0:
            raise FileRefused(f"cannot be read as {content_type}: a decoder crashes")
    raise CheckUnavailable("a file could not be examined: the probe did not start")


def probe_environment() -> dict[str, str]:
    """Return an environment without settings and secrets, in case an attacker takes over a decoder."""
    # With one arena the address space that a process takes is that of its data: each arena reserves 128 MiB.
    return {"MALLOC_ARENA_MAX": "1"} | {name: os.environ[name] for name in _PROBE_VARIABLES if name in os.environ}
