"""`python -m storage.untrusted.probe FILE TYPE LIMITS`: how large a file becomes as a picture, a video or a sound.

A process of its own, with little memory and time: native decoders have had faults that a file could use. No other file
or address is opened: a playlist cannot make us read something else. Counts are of what is there, not of what a header
says, and end where a limit is exceeded. Nothing is decoded.

Prints {"extents": […]}, one for each way in which the file can be read, or {"refused": "what is wrong"}.
"""

import json
import logging
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

from storage.formats import PICTURES, PILLOW, PILLOW_LOOKALIKES, STREAM_OPTIONS, STREAMS
from storage.untrusted.walkers import BadFile, gif_extent, webp_extent

MEMORY_BYTES = 512 * 1024**2
"""Address space. Python with Pillow has 40 MB of it, PyAV 130 MB."""
MAX_MAPPED = 256 * 1024**2
"""Of the file itself, which Pillow reads as a whole where it is an AVIF."""
CPU_S = 15
FIRST_LOOK = {"probesize": "5000000", "analyzeduration": "5000000"}
"""How much FFmpeg reads before it decides what a stream is, in bytes and in microseconds."""
_WALKERS = {"image/gif": gif_extent, "image/webp": webp_extent}
_VARYING = ("TIFF", "MPO")
"""Pillow's formats whose frames have sizes of their own."""


def walked_extent(path: str, content_type: str) -> dict[str, Any]:
    with Path(path).open("rb") as file:
        width, height, frames = _WALKERS[content_type](file)
    return {"width": width, "height": height, "frames": frames}


def picture_extent(path: str, content_type: str, most: int) -> dict[str, Any] | None:
    """By Pillow; None for what it does not know. Sizes of frames are summed up, to `most` pixels."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None
    # libwebp's canvases do not fit the memory here: such files are measured by `webp_extent`.
    formats = [name for name in (*PILLOW, *PILLOW_LOOKALIKES) if name != "WEBP"]
    try:
        picture = Image.open(path, formats=formats)
    except UnidentifiedImageError:
        return None
    with picture:
        if content_type in PICTURES and picture.format not in PICTURES[content_type]:
            raise BadFile(f"some readers take this {content_type} for {picture.format}")
        width, height = picture.size
        total = width * height * _equal_frames(picture)
        while picture.format in _VARYING and total <= most:
            try:
                picture.seek(picture.tell() + 1)
            except EOFError:
                break
            total += picture.width * picture.height
            width, height = max((width, height), picture.size, key=lambda size: size[0] * size[1])
        if picture.format == "PNG":
            picture.verify()
        return {"width": width, "height": height, "frames": -(-total // max(1, width * height))}


def _equal_frames(picture: Any) -> int:
    return 1 if picture.format in _VARYING else getattr(picture, "n_frames", 1)


def stream_extent(path: str, most_pixels: int, most_s: float) -> dict[str, Any]:
    """Raises whatever PyAV raises. FFmpeg finds the format itself, as it does in an engine, and has to find a listed
    one. A header may say anything, so packets are counted."""
    import av

    with av.open(path, options={**STREAM_OPTIONS, **FIRST_LOOK}) as container:
        videos = {stream.index: stream.width * stream.height for stream in container.streams.video}
        largest = max(container.streams.video, key=lambda stream: stream.width * stream.height, default=None)
        seconds, pixels, spans = float(container.duration or 0) / av.time_base, 0, dict[int, _Span]()
        for packet in container.demux(*container.streams.video, *container.streams.audio):
            if not packet.size:
                continue
            pixels += videos.get(packet.stream_index, 0)
            seconds = max(seconds, spans.setdefault(packet.stream_index, _Span()).add(packet))
            if pixels > most_pixels or seconds > most_s:
                break
        if largest is None:
            return {"duration_s": seconds}
        frames = max(1, -(-pixels // max(1, largest.width * largest.height)))
        return {"width": largest.width, "height": largest.height, "frames": frames, "duration_s": seconds}


class _Span:
    """How long a stream lasts, by the times of its packets and by the sum of their lengths."""

    def __init__(self) -> None:
        self._start: int | None = None
        self._sum = 0.0

    def add(self, packet: Any) -> float:
        """Seconds so far."""
        second = float(packet.time_base)
        length = packet.duration or 0
        self._sum += length
        moment = packet.dts if packet.pts is None else packet.pts
        if moment is None:
            return self._sum * second
        self._start = moment if self._start is None else min(self._start, moment)
        return float(max(self._sum, moment - self._start + length) * second)


def extents(path: str, content_type: str, limits: dict[str, Any]) -> list[dict[str, Any]]:
    """One for each way in which the file can be read."""
    found = []
    if content_type in _WALKERS:
        walked = walked_extent(path, content_type)
        found.append(walked)
        pixels = walked["width"] * walked["height"] * walked["frames"]
        if pixels > limits["max_animation_pixels"] or walked["frames"] > limits["max_frames"]:
            return found  # Pillow would count for seconds what is refused anyway
    if content_type in STREAMS:
        found.append(stream_extent(path, limits["max_video_pixels"], limits["max_duration_s"]))
    picture = picture_extent(path, content_type, limits["max_animation_pixels"])
    if picture is not None:
        found.append(picture)
    elif content_type in PICTURES and content_type not in _WALKERS:
        raise BadFile(f"cannot be read as {content_type}")
    return found


def answer(path: str, content_type: str, limits: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"extents": extents(path, content_type, limits)}
    except BadFile as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": f"it takes more than {MEMORY_BYTES // 1024**2} MiB of memory to be examined"}
    except Exception:  # parsers raise whatever they like on what strangers write; their words may name the path
        return {"refused": f"cannot be read as {content_type}"}


def main() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    path, content_type, limits = sys.argv[1:]
    memory = MEMORY_BYTES + min(Path(path).stat().st_size, MAX_MAPPED)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # At the soft limit the kernel sends SIGXCPU, which says why; at the hard one SIGKILL, as for a lack of memory.
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    sys.stdout.write(json.dumps(answer(path, content_type, json.loads(limits))))


if __name__ == "__main__":
    main()
