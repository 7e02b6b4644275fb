"""Sound: silence, loading and saving it. PyAV is imported where it is first used: it is big."""

import hashlib
import random
import string
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.formats import STREAM_OPTIONS
from workers.lite.folders import Folders
from workers.lite.node import NodeClass, Result, Running, choice, integer, link, number, text

_CODECS = {"flac": "flac", "mp3": "libmp3lame", "opus": "libopus"}
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
LONGEST_S = 2**64 - 1


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
        frame.time_base = Fraction(1, self.rate)
        return frame


def empty_audio(run: Running, *, duration: float, sample_rate: int = 44100, channels: int = 2) -> Result:
    return Result((Audio(np.zeros((channels, round(duration * sample_rate)), dtype=np.float32), sample_rate),))


def load_audio(run: Running, *, audio: str) -> Result:
    path = run.folders.annotated(audio)
    if path is None:
        raise ValueError(f"Invalid audio file: {audio}")
    return Result((_load(path),))


def missing_audio(folders: Folders, values: Mapping[str, Any]) -> str | None:
    path = folders.annotated(str(values["audio"]))
    return None if path is not None and path.is_file() else f"Invalid audio file: {values['audio']}"


def audio_content(folders: Folders, values: Mapping[str, Any]) -> str:
    path = folders.annotated(str(values["audio"]))
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else ""


def save_audio(run: Running, *, audio: Audio, filename_prefix: str) -> Result:
    return Result((audio,), {"audio": [_save(run, audio, filename_prefix, "flac")]})


def save_audio_mp3(run: Running, *, audio: Audio, filename_prefix: str, quality: str = "V0") -> Result:
    return Result((audio,), {"audio": [_save(run, audio, filename_prefix, "mp3", quality)]})


def save_audio_opus(run: Running, *, audio: Audio, filename_prefix: str, quality: str = "128k") -> Result:
    return Result((audio,), {"audio": [_save(run, audio, filename_prefix, "opus", quality)]})


def preview_audio(run: Running, *, audio: Audio) -> Result:
    suffix = "".join(random.choices(string.ascii_lowercase, k=5))  # noqa: S311  a name, not a secret
    return Result((audio,), {"audio": [_save(run, audio, f"ComfyUI_temp_{suffix}", "flac", kind="temp")]})


def _load(path: Path) -> Audio:
    import av

    with av.open(str(path), options=STREAM_OPTIONS) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp")
        frames = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
        frames += resampler.resample(None)  # what it still holds
        return Audio(np.concatenate([frame.to_ndarray() for frame in frames], axis=1), stream.rate)


def _save(
    run: Running, audio: Audio, prefix: str, suffix: str, quality: str | None = None, *, kind: str = "output"
) -> dict[str, str]:
    """Encode a sound into a file of the folder, and return its entry."""
    import av

    folder, base, counter = run.folders.save_path(prefix, run.folders.of(kind) or run.folders.output)
    path = folder / f"{base}_{counter:05}.{suffix}"  # as ComfyUI: only other files have an underscore at the end
    rate = _opus_rate(audio.rate) if suffix == "opus" else audio.rate
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(_CODECS[suffix], rate=rate, layout=audio.layout)
        if quality is not None and quality.endswith("k"):
            stream.bit_rate = int(quality[:-1]) * 1000
        resampler = av.AudioResampler(format=stream.format, layout=audio.layout, rate=rate)
        for frame in (*resampler.resample(audio.frame()), *resampler.resample(None)):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return run.folders.entry(path, kind)


def _opus_rate(rate: int) -> int:
    """Opus knows five rates: the next one that loses nothing, or its highest."""
    return next((known for known in _OPUS_RATES if known >= rate), _OPUS_RATES[-1])


_PREFIX = {"audio": link("AUDIO"), "filename_prefix": text("audio/ComfyUI")}
NODES = (
    NodeClass(
        "EmptyAudio",
        empty_audio,
        {
            "duration": number(60.0, 0.0, LONGEST_S),
            "sample_rate": integer(44100, 1, 192000),
            "channels": integer(2, 1, 2),
        },
        outputs=("AUDIO",),
    ),
    NodeClass(
        "LoadAudio",
        load_audio,
        {"audio": [[], {"audio_upload": True}]},
        outputs=("AUDIO",),
        check=("audio", missing_audio),
        fingerprint=audio_content,
    ),
    NodeClass("SaveAudio", save_audio, _PREFIX, outputs=("AUDIO",), is_output=True),
    NodeClass(
        "SaveAudioMP3",
        save_audio_mp3,
        {**_PREFIX, "quality": choice("V0", "128k", "320k", default="V0")},
        outputs=("AUDIO",),
        is_output=True,
    ),
    NodeClass(
        "SaveAudioOpus",
        save_audio_opus,
        {**_PREFIX, "quality": choice("64k", "96k", "128k", "192k", "320k", default="128k")},
        outputs=("AUDIO",),
        is_output=True,
    ),
    NodeClass("PreviewAudio", preview_audio, {"audio": link("AUDIO")}, outputs=("AUDIO",), is_output=True),
)
