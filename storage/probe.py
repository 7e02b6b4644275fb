"""`python storage/probe.py FILE TYPE`: how large a video, a sound or a rare picture becomes, as JSON. Exit code 1 for
what cannot be read.

A process of its own, with little memory and time: native decoders have had faults that a file could use. The demuxer is
given, not guessed, and no other file or address is opened: a playlist cannot make us read something else.
"""

import json
import logging
import resource
import sys
from typing import Any

MEMORY_BYTES = 2 * 1024**3
CPU_S = 15
PROBE_OPTIONS = {"protocol_whitelist": "file", "probesize": "5000000", "analyzeduration": "5000000"}
PICTURES = ("image/avif", "image/tiff", "image/jpx")
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


def stream_extent(path: str, content_type: str) -> dict[str, Any]:
    """As `Extent`'s fields. Raises whatever PyAV raises."""
    import av

    with av.open(path, format=DEMUXERS[content_type], options=PROBE_OPTIONS) as container:
        seconds = (container.duration or 0) / av.time_base
        if not container.streams.video:
            return {"duration_s": seconds}
        video = container.streams.video[0]
        rate = float(video.average_rate or video.base_rate or 0)
        frames = max(video.frames, round(seconds * rate), 1)
        return {"width": video.width, "height": video.height, "frames": frames, "duration_s": seconds}


def picture_extent(path: str) -> dict[str, Any]:
    """As `Extent`'s fields, of the first frame."""
    from PIL import Image

    with Image.open(path) as picture:
        return {"width": picture.width, "height": picture.height}


def main() -> None:
    logging.disable(logging.CRITICAL)
    for limit, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CPU, CPU_S)):
        resource.setrlimit(limit, (most, most))
    path, content_type = sys.argv[1:]
    extent = picture_extent(path) if content_type in PICTURES else stream_extent(path, content_type)
    sys.stdout.write(json.dumps(extent))


if __name__ == "__main__":
    main()
