"""Videos: H.264 in MP4, by PyAV."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from workers.lite.node import NodeClass, Result, Running, choice, link, number, text
from workers.lite.nodes.audio import Audio
from workers.lite.nodes.pixels import Pixels


@dataclass(frozen=True, slots=True)
class Video:
    images: Pixels
    fps: float
    audio: Audio | None = None


def create_video(run: Running, *, images: Pixels, fps: float, audio: Audio | None = None) -> Result:
    return Result((Video(images, fps, audio),))


def save_video(run: Running, *, video: Video, filename_prefix: str, **_: Any) -> Result:
    """`format` and `codec` have one real choice each."""
    folder, base, counter = run.folders.save_path(filename_prefix, run.folders.output)
    path = folder / f"{base}_{counter:05}_.mp4"
    _encode(video, path)
    return Result(ui={"images": [run.folders.entry(path, "output")], "animated": (True,)})


def _encode(video: Video, path: Path) -> None:
    """Odd sizes lose a row or column: H.264 in 4:2:0 has none."""
    import av

    height, width = (side - side % 2 for side in video.images.shape[1:3])
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
        stream = container.add_stream("h264", rate=Fraction(round(video.fps * 1000), 1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        sound: Any = None
        if video.audio is not None:
            sound = container.add_stream("aac", rate=video.audio.rate, layout=video.audio.layout)
        for image in video.images:
            pixels = np.clip(image[:height, :width] * 255, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode(None))
        if video.audio is not None:
            container.mux(sound.encode(video.audio.frame()))
            container.mux(sound.encode(None))


NODES = (
    NodeClass(
        "CreateVideo",
        create_video,
        {"images": link("IMAGE"), "fps": number(30.0, 1.0, 120.0, 1.0)},
        optional={"audio": link("AUDIO")},
        outputs=("VIDEO",),
    ),
    NodeClass(
        "SaveVideo",
        save_video,
        {"video": link("VIDEO"), "filename_prefix": text("video/ComfyUI"), "format": choice("auto", "mp4")},
        optional={"codec": choice("auto", "h264"), "format.codec": choice("auto", "h264")},
        is_output=True,
    ),
)
