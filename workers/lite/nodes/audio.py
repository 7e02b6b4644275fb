"""Sound: silence, and saving it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.lite.node import NodeClass, Result, Running, choice, integer, link, number, text


@dataclass(frozen=True, slots=True)
class Audio:
    """Samples of channel × time, −1 to 1."""

    samples: npt.NDArray[np.float32]
    rate: int

    @property
    def layout(self) -> str:
        return "mono" if len(self.samples) == 1 else "stereo"

    def frame(self) -> Any:
        """All of it as one PyAV frame."""
        import av

        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(self.samples), format="fltp", layout=self.layout)
        frame.sample_rate, frame.pts = self.rate, 0
        return frame


def empty_audio(run: Running, *, duration: float, sample_rate: int = 44100, channels: int = 2) -> Result:
    return Result((Audio(np.zeros((channels, round(duration * sample_rate)), dtype=np.float32), sample_rate),))


def save_audio(run: Running, *, audio: Audio, filename_prefix: str) -> Result:
    return Result(ui={"audio": [_save(run, audio, filename_prefix, "flac")]})


def save_audio_mp3(run: Running, *, audio: Audio, filename_prefix: str, quality: str = "V0") -> Result:
    return Result(ui={"audio": [_save(run, audio, filename_prefix, "mp3")]})


def _save(run: Running, audio: Audio, prefix: str, codec: str) -> dict[str, str]:
    import av

    folder, base, counter = run.folders.save_path(prefix, run.folders.output)
    path = folder / f"{base}_{counter:05}_.{codec}"
    with av.open(str(path), "w") as container:
        name = "libmp3lame" if codec == "mp3" else codec
        stream: Any = container.add_stream(name, rate=audio.rate, layout=audio.layout)
        container.mux(stream.encode(audio.frame()))
        container.mux(stream.encode(None))
    return run.folders.entry(path, "output")


NODES = (
    NodeClass(
        "EmptyAudio",
        empty_audio,
        {
            "duration": number(60.0, 0.0, 1e6),
            "sample_rate": integer(44100, 1, 192000),
            "channels": integer(2, 1, 2),
        },
        outputs=("AUDIO",),
    ),
    NodeClass(
        "SaveAudio", save_audio, {"audio": link("AUDIO"), "filename_prefix": text("audio/ComfyUI")}, is_output=True
    ),
    NodeClass(
        "SaveAudioMP3",
        save_audio_mp3,
        {
            "audio": link("AUDIO"),
            "filename_prefix": text("audio/ComfyUI"),
            "quality": choice("V0", "128k", "320k", default="V0"),
        },
        is_output=True,
    ),
)
