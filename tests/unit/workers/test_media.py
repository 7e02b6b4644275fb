"""Media facts of valid, damaged and hostile files; examining any of them raises nothing."""

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
def test_the_size_of_a_picture_is_read(tmp_path: Path, kind: str, content_type: str) -> None:
    """The size of a picture is read from its content, whatever its file name is."""
    body = picture(kind)
    facts = examine(written(tmp_path, "x", body), "picture.bin")
    assert facts == Facts(len(body), hashlib.sha256(body).hexdigest(), content_type, 20, 10, None, 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_frames_and_duration_of_an_animation_are_read(tmp_path: Path, kind: str) -> None:
    """The number of frames and the duration of an animation are read."""
    facts = examine(written(tmp_path, "x", picture(kind, frames=4)), f"a.{kind.lower()}")
    assert (facts.width, facts.frames) == (20, 4)
    assert facts.duration_s == pytest.approx(0.5, abs=0.03)


def test_a_picture_beyond_pillows_limit_is_read(tmp_path: Path) -> None:
    """The size of a picture beyond Pillow's pixel limit, as upscalers write it, is read from its header."""
    buffer = io.BytesIO()
    Image.new("1", (20_000, 16_000)).save(buffer, "PNG")
    facts = examine(written(tmp_path, "x", buffer.getvalue()), "x.png")
    assert (facts.width, facts.height) == (20_000, 16_000)


@pytest.mark.parametrize(("side", "frames"), [(9_000, 15_000), (20_000, 2), (1, 50_000)])
def test_an_animation_that_is_slow_to_decode_has_no_duration(tmp_path: Path, side: int, frames: int) -> None:
    """A small GIF that would take hours to decode has a size but no duration."""
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    body = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6) + frame * frames + b";"
    facts = examine(written(tmp_path, "x", body), "x.gif")
    assert (facts.width, facts.height, facts.frames, facts.duration_s) == (side, side, frames, None)


def test_a_small_file_with_huge_pages_is_not_decoded(tmp_path: Path) -> None:
    """A TIFF whose second page has 625 million pixels is examined without decoding it."""
    pages = [Image.new("1", (1, 1)), Image.new("1", (25_000, 25_000))]
    path = tmp_path / "x.tiff"
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="group4")
    del pages
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = examine(path, "x.tiff")
    assert (facts.width, facts.frames, facts.duration_s) == (1, 2, None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


def test_an_animation_that_needs_too_much_memory_has_no_duration(tmp_path: Path) -> None:
    """A WebP that needs more memory than the examining process may use has no duration."""
    body = bytearray(picture("WEBP", frames=3))
    assert body[12:16] == b"VP8X"
    body[24:30] = (9_898).to_bytes(3, "little") * 2
    facts = examine(written(tmp_path, "x", bytes(body)), "x.webp")
    assert (facts.width, facts.height, facts.frames, facts.duration_s) == (9_899, 9_899, 3, None)


def test_the_size_duration_and_frames_of_a_video_are_read(tmp_path: Path) -> None:
    """A video's size, duration and frames are read; WebM packets are counted, because the header lacks the frame
    count."""
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


def test_the_duration_of_sound_is_read(tmp_path: Path) -> None:
    """Sound has a duration and no size in pixels."""
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
def test_an_unreadable_file_has_no_media_facts(tmp_path: Path, name: str, body: bytes) -> None:
    """A file that cannot be decoded has a size in bytes and no media facts."""
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
def test_the_name_decides_the_type_of_unrecognised_content(tmp_path: Path, name: str, content_type: str) -> None:
    """The file name decides the content type of models and text, which have no magic number."""
    assert content_type_of(written(tmp_path, name, b"{}"), name) == content_type


def test_a_given_content_type_is_used(tmp_path: Path) -> None:
    """A content type given by the caller is used, even if a text starts like a picture."""
    facts = examine(written(tmp_path, "x", b"GIF89a is a format"), "x.txt", "text/plain; charset=utf-8")
    assert (facts.content_type, facts.width) == ("text/plain; charset=utf-8", None)
