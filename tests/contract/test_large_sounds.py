"""The samples of a sound are counted, whatever its container states."""

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


def sound(
    codec: str,
    container_format: str,
    *,
    seconds: float,
    rate: int = 48_000,
    together: bool = False,
    layout: str = "stereo",
) -> bytes:
    """A silent sound; `together` puts all frames into one packet, which the container takes for one frame."""
    out = io.BytesIO()
    with av.open(out, "w", format=container_format) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
        silence = np.zeros((1, 2 * round(seconds * rate)), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="stereo")
        frame.sample_rate = rate
        frames = [*resampler.resample(frame), None]
        packets = [packet for frame in frames for packet in stream.encode(frame)]
        if together:
            combined = av.Packet(b"".join(map(bytes, packets)))
            combined.stream, combined.time_base, combined.pts, combined.dts = stream, packets[0].time_base, 0, 0
            combined.duration = 1024
            packets = [combined]
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
async def test_the_samples_of_a_sound_are_limited(tmp_path: Path, codec: str, container_format: str) -> None:
    """The samples of all channels are limited at any rate, because a loader holds four bytes for each."""
    await checked(tmp_path, sound(codec, container_format, seconds=9.5))
    with pytest.raises(FileRefused, match="samples"):
        await checked(tmp_path, sound(codec, container_format, seconds=11))


@pytest.mark.parametrize(("codec", "container_format"), [("flac", "flac"), ("pcm_s16le", "wav"), ("aac", "mp4")])
async def test_a_sound_has_at_most_seven_channels(tmp_path: Path, codec: str, container_format: str) -> None:
    """A sound of eight channels, which ends engines by a fault of their reader, is refused; one of six is accepted."""
    await checked(tmp_path, sound(codec, container_format, seconds=0.2, layout="5.1"))
    with pytest.raises(FileRefused, match="8 channels, at most 7"):
        await checked(tmp_path, sound(codec, container_format, seconds=0.2, layout="7.1"))


async def test_a_high_sample_rate_counts(tmp_path: Path) -> None:
    """A second of silence at 655,350 samples per second, which has few bytes, exceeds the limit."""
    with pytest.raises(FileRefused, match="samples"):
        await checked(tmp_path, sound("flac", "flac", seconds=1, rate=655_350))


@pytest.mark.parametrize("codec", ["flac", "libmp3lame"])
async def test_a_container_that_states_too_little_is_refused(tmp_path: Path, codec: str) -> None:
    """A packet counts with the samples that a decoder finds in it."""
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
        (b"\x1b\x3f", 5760),  # SILK, the maximum count of 60 ms frames, limited to 120 ms per packet
    ],
)
def test_the_length_of_an_opus_packet_is_read_from_its_head(head: bytes, samples: int) -> None:
    """The samples of an Opus packet follow from its mode and its count of frames."""
    assert opus_samples(head) == samples
