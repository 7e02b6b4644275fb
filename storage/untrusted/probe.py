"""`python probe.py FILE TYPE LIMITS`: how large a file becomes as a picture, as a video or a sound, as JSON.
Exit code 1 for what cannot be read as what its type says.

A process of its own, with little memory and time: native decoders have had faults that a file could use. No other file
or address is opened: a playlist cannot make us read something else. Counts are of what is there, not of what a header
says, and end where a limit is exceeded.
"""

import json
import logging
import resource
import sys
import warnings
from typing import Any

MEMORY_BYTES = 2 * 1024**3
CPU_S = 15
PROBE_OPTIONS = {"protocol_whitelist": "file", "probesize": "5000000", "analyzeduration": "5000000"}
PICTURES = ("image/avif", "image/tiff", "image/jpx", "image/webp")
DEMUXERS = {
    "video/mp4": "mov",
    "video/quicktime": "mov",
    "video/x-m4v": "mov",
    "video/3gpp": "mov",
    "video/webm": "matroska",
    "video/x-matroska": "matroska",
    "video/x-msvideo": "avi",
    "video/x-flv": "flv",
    "video/mpeg": "mpeg",
    "video/x-ms-wmv": "asf",
    "audio/mpeg": "mp3",
    "audio/mp4": "mov",
    "audio/ogg": "ogg",
    "audio/x-flac": "flac",
    "audio/x-wav": "wav",
    "audio/aac": "aac",
    "audio/x-aiff": "aiff",
}
GUESSED = "mov,mp4,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,ivf,obu,h264,hevc,nut,mxf"
"""Demuxers that a file without a known type may turn out to be for: none of them follows a name in it."""
_VARYING = ("TIFF", "MPO", "DCX")
"""Pillow's formats whose frames have sizes of their own."""
_INSIDE = ("ICO", "ICNS")
"""Whose size is that of a picture inside, known when it is decoded."""


def picture_extent(path: str, max_pixels: int, most: int) -> dict[str, Any] | None:
    """As `Extent`'s fields, and the content type; None for what Pillow does not know. Sizes of frames are summed up."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None
    try:
        picture = Image.open(path)
    except UnidentifiedImageError:
        return None
    with picture:
        if picture.format in _INSIDE:
            Image.MAX_IMAGE_PIXELS = max_pixels // 2  # it raises beyond twice as many
            picture.load()
        width, height = picture.size
        total = width * height * _equal_frames(picture)
        while picture.format in _VARYING and total <= most:
            try:
                picture.seek(picture.tell() + 1)
            except EOFError:
                break
            total += picture.width * picture.height
            width, height = max((width, height), picture.size, key=lambda size: size[0] * size[1])
        frames = -(-total // max(1, width * height))
        return {"width": width, "height": height, "frames": frames, "content_type": picture.get_format_mimetype()}


def _equal_frames(picture: Any) -> int:
    return 1 if picture.format in _VARYING else getattr(picture, "n_frames", 1)


def stream_extent(path: str, demuxer: str | None, most_pixels: int, most_s: float) -> dict[str, Any]:
    """As `Extent`'s fields; raises whatever PyAV raises. A header may say anything, so packets are counted."""
    import av

    options = PROBE_OPTIONS if demuxer else {**PROBE_OPTIONS, "format_whitelist": GUESSED}
    with av.open(path, format=demuxer, options=options) as container:
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


def extents(path: str, content_type: str, limits: dict[str, Any]) -> dict[str, Any]:
    """`picture` and `stream`, each null for what the file is not."""
    stream = None
    most_pixels, most_s = limits["max_video_pixels"], limits["max_duration_s"]
    picture = picture_extent(path, limits["max_pixels"], limits["max_animation_pixels"])
    if picture is None and content_type in PICTURES:
        raise ValueError("not what it seems to be")
    if content_type in DEMUXERS:
        stream = stream_extent(path, DEMUXERS[content_type], most_pixels, most_s)
    elif picture is None:
        stream = _guessed(path, most_pixels, most_s)
    return {"picture": picture, "stream": stream}


def _guessed(path: str, most_pixels: int, most_s: float) -> dict[str, Any] | None:
    import av

    try:
        return stream_extent(path, None, most_pixels, most_s)
    except (av.FFmpegError, ValueError):
        return None


def main() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for limit, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CPU, CPU_S)):
        resource.setrlimit(limit, (most, most))
    path, content_type, limits = sys.argv[1:]
    sys.stdout.write(json.dumps(extents(path, content_type, json.loads(limits))))


if __name__ == "__main__":
    main()
