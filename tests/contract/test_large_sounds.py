"""How many samples a sound becomes is counted, whatever its container says."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from storage.errors import FileRefused
from storage.intake.media_check import MediaCheck, MediaLimits
from storage.intake.probe import opus_samples

pytestmark = pytest.mark.anyio

LIMITS = MediaLimits(max_samples=1_000_000)


def sound(codec: str, container_format: str, *, seconds: float, rate: int = 48_000, together: bool = False) -> bytes:
    """Of two channels. `together` puts all frames of the codec into one packet, which the container takes for one."""
    out = io.BytesIO()
    with av.open(out, "w", format=container_format) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout="stereo")
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=rate)
        silence = np.zeros((1, 2 * round(seconds * rate)), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="stereo")
        frame.sample_rate = rate
        frames = [*resampler.resample(frame), None]
        packets = [packet for frame in frames for packet in stream.encode(frame)]
        if together:
            whole = av.Packet(b"".join(map(bytes, packets)))
            whole.stream, whole.time_base, whole.pts, whole.dts = stream, packets[0].time_base, 0, 0
            whole.duration = 1024
            packets = [whole]
        for packet in packets:
            container.mux(packet)
    return out.getvalue()


async def checked(tmp_path: Path, body: bytes) -> str:
    path = tmp_path / "file"
    path.write_bytes(body)
    return await MediaCheck().check(path, LIMITS)


@pytest.mark.parametrize(
    ("codec", "container_format"),
    [
        ("flac", "flac"),
        ("aac", "mp4"),
        ("libmp3lame", "mp3"),
        ("libopus", "ogg"),
        ("pcm_s16le", "wav"),
        ("alac", "mp4"),
    ],
)
async def test_a_sound_has_so_many_samples(tmp_path: Path, codec: str, container_format: str) -> None:
    """Of all channels, at any rate: a loader holds four bytes for each."""
    await checked(tmp_path, sound(codec, container_format, seconds=9.5))
    with pytest.raises(FileRefused, match="samples"):
        await checked(tmp_path, sound(codec, container_format, seconds=11))


async def test_more_samples_a_second_are_more_samples(tmp_path: Path) -> None:
    """Silence of 655,350 samples a second takes few bytes."""
    with pytest.raises(FileRefused, match="samples"):
        await checked(tmp_path, sound("flac", "flac", seconds=1, rate=655_350))


@pytest.mark.parametrize("codec", ["flac", "libmp3lame"])
async def test_a_container_that_says_too_little_is_not_believed(tmp_path: Path, codec: str) -> None:
    """A packet counts as what a decoder finds in it."""
    with pytest.raises(FileRefused, match="samples"):
        await checked(tmp_path, sound(codec, "mp4", seconds=12, together=True))


@pytest.mark.parametrize(
    ("head", "samples"),
    [
        (b"", 0),
        (b"\x08", 960),  # SILK, 20 ms
        (b"\x78", 960),  # hybrid, 20 ms
        (b"\xf9", 1920),  # CELT, two frames of 20 ms
        (b"\xe3\x08", 960),  # CELT, eight frames of 2.5 ms
        (b"\x1b\x3f", 5760),  # SILK, as many frames of 60 ms as can be written: no packet is longer than 120 ms
    ],
)
def test_an_opus_packet_says_its_length(head: bytes, samples: int) -> None:
    """By its mode and its count of frames."""
    assert opus_samples(head) == samples
