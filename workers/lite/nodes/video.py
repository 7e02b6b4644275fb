"""Videos: H.264 in MP4, VP9 and AV1 in WebM. PyAV is imported where it is first used: it is big."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from workers.lite.node import NodeClass, Result, Running, choice, link, number, text
from workers.lite.nodes.audio import Audio
from workers.lite.nodes.pixels import Pixels

_WEBM_CODECS = {"vp9": "libvpx-vp9", "av1": "libsvtav1"}


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
    return Result((video,), {"images": [run.folders.entry(path, "output")], "animated": (True,)})


def save_webm(run: Running, *, images: Pixels, filename_prefix: str, codec: str, fps: float, crf: float) -> Result:
    import av

    folder, base, counter = run.folders.save_path(filename_prefix, run.folders.output)
    path = folder / f"{base}_{counter:05}_.webm"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(_WEBM_CODECS[codec], rate=Fraction(round(fps * 1000), 1000))
        stream.height, stream.width = images.shape[1:3]
        # Only with a bit rate of 0 does libvpx use the quality alone.
        stream.pix_fmt, stream.bit_rate, stream.options = "yuv420p", 0, {"crf": str(round(crf))}
        for image in images:
            container.mux(stream.encode(_frame(image)))
        container.mux(stream.encode(None))
    return Result((images,), {"images": [run.folders.entry(path, "output")], "animated": (True,)})


def _frame(image: Pixels) -> Any:
    import av

    pixels = np.clip(image * 255, 0, 255).astype(np.uint8)
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")


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
            container.mux(stream.encode(_frame(image[:height, :width])))
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
        outputs=("VIDEO",),
        is_output=True,
    ),
    NodeClass(
        "SaveWEBM",
        save_webm,
        {
            "images": link("IMAGE"),
            "filename_prefix": text("ComfyUI"),
            "codec": choice(*_WEBM_CODECS),
            "fps": number(24.0, 0.01, 1000.0),
            "crf": number(32.0, 0, 63.0, 1),
        },
        outputs=("IMAGE",),
        is_output=True,
    ),
)
