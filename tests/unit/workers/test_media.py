"""Files as nodes write them, and as they should not: what is told of each, and that nothing raises."""

import hashlib
import io
import resource
import struct
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from workers.outputs.media import Facts, content_type_of, examine


def written(folder: Path, name: str, body: bytes) -> Path:
    path = folder / name
    path.write_bytes(body)
    return path


def picture(kind: str, size: tuple[int, int] = (20, 10), frames: int = 1) -> bytes:
    buffer = io.BytesIO()
    first, *rest = [Image.new("RGB", size, (40 * number, 0, 0)) for number in range(frames)]
    if rest:
        first.save(buffer, kind, save_all=True, append_images=rest, duration=125)
    else:
        first.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "content_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")]
)
def test_a_picture_tells_its_size(tmp_path: Path, kind: str, content_type: str) -> None:
    """Whatever its name says."""
    body = picture(kind)
    facts = examine(written(tmp_path, "x", body), "picture.bin")
    assert facts == Facts(len(body), hashlib.sha256(body).hexdigest(), content_type, 20, 10, None, 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_tells_its_frames_and_length(tmp_path: Path, kind: str) -> None:
    """Four frames of an eighth of a second; GIF counts in hundredths."""
    facts = examine(written(tmp_path, "x", picture(kind, frames=4)), f"a.{kind.lower()}")
    assert (facts.width, facts.frames) == (20, 4)
    assert facts.duration_s == pytest.approx(0.5, abs=0.03)


def test_a_picture_larger_than_pillow_believes_in(tmp_path: Path) -> None:
    """Upscalers write such ones; the header is enough."""
    buffer = io.BytesIO()
    Image.new("1", (20_000, 16_000)).save(buffer, "PNG")
    facts = examine(written(tmp_path, "x", buffer.getvalue()), "x.png")
    assert (facts.width, facts.height) == (20_000, 16_000)


@pytest.mark.parametrize(("side", "frames"), [(9_000, 15_000), (20_000, 2), (1, 50_000)])
def test_an_animation_that_takes_long_is_not_decoded(tmp_path: Path, side: int, frames: int) -> None:
    """A GIF of some kilobytes may be hours of work: its size is said, its length is not."""
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    body = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6) + frame * frames + b";"
    facts = examine(written(tmp_path, "x", body), "x.gif")
    assert (facts.width, facts.height, facts.frames, facts.duration_s) == (side, side, frames, None)


def test_a_small_file_of_huge_pages_takes_no_memory_of_the_worker(tmp_path: Path) -> None:
    """The second page of this TIFF decodes to 625 million pixels; the pages have no duration, and none is decoded."""
    pages = [Image.new("1", (1, 1)), Image.new("1", (25_000, 25_000))]
    path = tmp_path / "x.tiff"
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="group4")
    del pages
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = examine(path, "x.tiff")
    assert (facts.width, facts.frames, facts.duration_s) == (1, 2, None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


def test_an_animation_beyond_the_memory_of_its_measurement_has_no_duration(tmp_path: Path) -> None:
    """libwebp allocates two canvases, of 392 MB each here; the process that opens the file has no room for both."""
    body = bytearray(picture("WEBP", frames=3))
    assert body[12:16] == b"VP8X"
    body[24:30] = (9_898).to_bytes(3, "little") * 2
    facts = examine(written(tmp_path, "x", bytes(body)), "x.webp")
    assert (facts.width, facts.height, facts.frames, facts.duration_s) == (9_899, 9_899, 3, None)


def test_a_video_tells_its_size_length_and_frames(tmp_path: Path) -> None:
    """WebM does not write the number of frames into its header: packets are counted."""
    path = tmp_path / "x.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for _ in range(5):
            pixels = np.zeros((32, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    facts = examine(path, "x.webm")
    assert (facts.content_type, facts.width, facts.height, facts.frames) == ("video/webm", 64, 32, 5)
    assert facts.duration_s == pytest.approx(0.5, abs=0.1)


def test_sound_tells_its_length(tmp_path: Path) -> None:
    """And no size in pixels."""
    path = tmp_path / "x.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(2 * 4000))
    facts = examine(path, "x.wav")
    assert (facts.duration_s, facts.width, facts.frames) == (0.5, None, None)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("cut.png", picture("PNG")[:20]),
        ("cut.webp", picture("WEBP", frames=3)[:60]),
        ("empty.mp4", b""),
        ("noise.mp4", bytes(range(256)) * 8),
        ("riff.wav", b"RIFF\x24\0\0\0WAVEfmt "),
        ("vector.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ],
)
def test_what_cannot_be_read_stays_unsaid(tmp_path: Path, name: str, body: bytes) -> None:
    """The file itself is an output all the same."""
    facts = examine(written(tmp_path, name, body), name)
    assert (facts.size_bytes, facts.duration_s, facts.frames) == (len(body), None, None)


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("mesh.glb", "model/gltf-binary"),
        ("mesh.obj", "model/obj"),
        ("data.json", "application/json"),
        ("latent.latent", "application/octet-stream"),
        ("vector.svg", "image/svg+xml"),
    ],
)
def test_the_name_decides_where_the_content_says_nothing(tmp_path: Path, name: str, content_type: str) -> None:
    """Models and text have no magic number."""
    assert content_type_of(written(tmp_path, name, b"{}"), name) == content_type


def test_what_the_caller_knows_counts(tmp_path: Path) -> None:
    """A text that begins like a picture is a text."""
    facts = examine(written(tmp_path, "x", b"GIF89a is a format"), "x.txt", "text/plain; charset=utf-8")
    assert (facts.content_type, facts.width) == ("text/plain; charset=utf-8", None)
