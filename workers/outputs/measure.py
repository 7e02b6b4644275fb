"""Measures a media file that a node wrote: `python -m workers.outputs.measure FILE TYPE`.

It runs in a process with little memory and time, because a file of some kilobytes can decode to gigabytes and native
decoders have had exploitable faults. Prints the `width`, `height`, `frames` and `duration_s` that it finds, as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

from storage.formats import PILLOW, STREAM_OPTIONS
from storage.intake.probe import limit_itself
from storage.intake.walkers import gif_extent, webp_extent

MEMORY_BYTES = 768 * 1024**2
"""Limit of the address space. Python with PyAV takes 130 MB, two canvases of 40 million pixels 320 MB."""
LARGEST_FRAME = 100_000_000
LARGEST_ANIMATION = 1_000_000_000
"""Maximum pixels, per frame and in total. The frames of a larger animation are not decoded and it gets no duration: a
GIF of some hundred bytes can be as large, and its decoding would take longer than its job."""
MOST_FRAMES = 10_000
_WALKERS = {"image/gif": gif_extent, "image/webp": webp_extent}
"""Types that are measured without Pillow, which reads all frames of a GIF and allocates a WebP's whole canvas."""
_TIMED = ("GIF", "WEBP", "PNG", "AVIF")
"""Pillow's formats whose frames have durations. The pages of a TIFF have none, and may differ in size."""


def picture(path: str, content_type: str) -> dict[str, Any]:
    if content_type not in _WALKERS:
        return _by_pillow(path)
    with Path(path).open("rb") as file:
        width, height, frames = _WALKERS[content_type](file)
    found = {"width": width, "height": height, "frames": frames}
    if frames > 1 and _may_be_decoded(width * height, frames):
        try:
            return _by_pillow(path)
        except (MemoryError, OSError):  # libwebp reports a lack of memory as a file that it cannot open
            return found
    return found


def _by_pillow(path: str) -> dict[str, Any]:
    from PIL import Image

    # Only the header is read before the limits of this module are checked.
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path, formats=PILLOW) as opened:
        frames = getattr(opened, "n_frames", 1)
        found: dict[str, Any] = {"width": opened.width, "height": opened.height, "frames": frames}
        is_timed = frames > 1 and opened.format in _TIMED
        if is_timed and _may_be_decoded(opened.width * opened.height, frames):
            found["duration_s"] = _animation_s(opened, frames)
        return found


def _may_be_decoded(pixels: int, frames: int) -> bool:
    return pixels <= LARGEST_FRAME and pixels * frames <= LARGEST_ANIMATION and frames <= MOST_FRAMES


def _animation_s(opened: Any, frames: int) -> float | None:
    total_ms = 0.0
    for frame in range(frames):
        opened.seek(frame)
        opened.load()  # Pillow has a WebP frame's duration only after decoding it
        total_ms += opened.info.get("duration", 0)
    return round(total_ms / 1000, 3) or None


def stream(path: str) -> dict[str, Any]:
    import av

    with av.open(path, options=STREAM_OPTIONS) as container:
        seconds = None if container.duration is None else round(container.duration / av.time_base, 3)
        if not container.streams.video:
            return {"duration_s": seconds}
        video = container.streams.video[0]
        frames = video.frames or sum(1 for packet in container.demux(video) if packet.size)
        return {"width": video.width, "height": video.height, "duration_s": seconds, "frames": frames}


def main() -> None:
    path, content_type = sys.argv[1:]
    limit_itself(path, MEMORY_BYTES)
    found = picture(path, content_type) if content_type.startswith("image/") else stream(path)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
