"""Files that would hurt who opens them: refused with what is wrong, before an engine sees them."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from storage.errors import MediumRefused
from storage.media_check import UNKNOWN, MediaLimits, check_medium

pytestmark = pytest.mark.anyio

SMALL = MediaLimits(max_pixels=1_000_000, max_animation_pixels=2_000_000, max_video_pixels=5_000_000, max_duration_s=60)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, pixels: bytes | None = None) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = zlib.compress(bytes(width + 1) * height, 9) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def gif(width: int, height: int, frames: int, tail: bytes = b";") -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * frames + tail


def picture(kind: str, *, size: tuple[int, int] = (8, 8), frames: int = 1) -> bytes:
    out = io.BytesIO()
    pictures = [Image.new("RGB", size, (number * 30 % 255, 0, 0)) for number in range(frames)]
    pictures[0].save(out, kind, **({"save_all": True, "append_images": pictures[1:]} if frames > 1 else {}))
    return out.getvalue()


def video(width: int, height: int, frames: int, rate: int = 10) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def wav(seconds: int) -> bytes:
    rate = 8_000
    data = bytes(rate * seconds)
    head = struct.pack("<IHHIIHH", 16, 1, 1, rate, rate, 1, 8) + b"data" + struct.pack("<I", len(data))
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + head + data


def playlist(path: str) -> bytes:
    return f"#EXTM3U\n#EXTINF:10,\nfile://{path}\n#EXT-X-ENDLIST\n".encode()


def patched(body: bytes, at: int, new: bytes) -> bytes:
    return body[:at] + new + body[at + len(new) :]


MP4 = video(64, 48, 3)
ITXT = png_chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(80 * 1024**2), 9))
HOSTILE: dict[str, Callable[[], bytes]] = {
    "a PNG that claims 2^31 pixels in a row": lambda: png(2**31 - 1, 1, pixels=zlib.compress(b"")),
    "a PNG of 50,000 by 50,000 in few bytes": lambda: png(50_000, 50_000, pixels=zlib.compress(bytes(100))),
    "a PNG without pixels": lambda: png(0, 0),
    "a PNG whose text is a bomb": lambda: png(8, 8, ITXT),
    "a PNG that ends within its pixels": lambda: png(800, 800)[:-40],
    "a PNG with a wrong checksum": lambda: patched(png(8, 8), 30, b"\xff"),
    "an APNG of too many frames": lambda: png(900, 900, png_chunk(b"acTL", struct.pack(">II", 10_000, 0))),
    "a JPEG that claims 65,535 by 65,535": lambda: picture("JPEG").replace(b"\x00\x08\x00\x08", b"\xff\xff\xff\xff"),
    "a JPEG that is only its first bytes": lambda: picture("JPEG")[:20],
    "a GIF of 65,535 by 65,535": lambda: gif(65_535, 65_535, 1),
    "a GIF of 100,000 frames": lambda: gif(500, 500, 100_000),
    "a GIF that ends within its header": lambda: gif(5, 5, 1)[:9],
    "a GIF with an unknown block": lambda: gif(5, 5, 1, tail=b"\x99"),
    "a GIF of endless blocks": lambda: gif(5, 5, 0, tail=b"!\xfe" + b"\x01x" * 1_000_001),
    "a WebP of too many frames": lambda: picture("WEBP", size=(600, 600), frames=8),
    "a WebP that ends early": lambda: picture("WEBP")[:40],
    "a BMP of 2^31 by 1": lambda: patched(picture("BMP"), 18, struct.pack("<i", 2**31 - 1)),
    "a TIFF that points to itself": lambda: b"II*\0\x08\0\0\0\0\0" + struct.pack("<I", 8),
    "a TIFF that ends early": lambda: picture("TIFF")[:60],
    "an AVIF that is only its head": lambda: b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    "an MP4 of too many pixels": lambda: video(1280, 960, 1),
    "an MP4 of too many frames": lambda: video(640, 480, 30),
    "an MP4 that is only its head": lambda: MP4[:40],
    "a WAV of more than a minute": lambda: wav(61),
    "a Matroska file of noise": lambda: b"\x1aE\xdf\xa3\x93\x42\x82\x88matroska" + bytes(range(256)),
}


async def checked(tmp_path: Path, body: bytes, limits: MediaLimits = SMALL) -> str:
    path = tmp_path / "file"
    path.write_bytes(body)
    return await check_medium(path, limits)


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_file_is_refused(tmp_path: Path, name: str) -> None:
    """With words, and without what a loader would need for it."""
    with pytest.raises(MediumRefused) as refused:
        await checked(tmp_path, HOSTILE[name]())
    assert str(refused.value)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (png(900, 900), "image/png"),
        (png(8, 8, png_chunk(b"acTL", struct.pack(">II", 2, 0))), "image/apng"),
        (picture("JPEG", size=(999, 999)), "image/jpeg"),
        (picture("WEBP", frames=3), "image/webp"),
        (picture("BMP"), "image/bmp"),
        (picture("TIFF"), "image/tiff"),
        (picture("AVIF"), "image/avif"),
        (gif(100, 100, 30), "image/gif"),
        (gif(100, 100, 3, tail=b""), "image/gif"),
        (MP4, "video/mp4"),
        (wav(5), "audio/x-wav"),
    ],
)
async def test_an_ordinary_file_passes(tmp_path: Path, body: bytes, content_type: str) -> None:
    """As what its bytes say it is."""
    assert await checked(tmp_path, body) == content_type


async def test_what_no_loader_decodes_passes_as_bytes(tmp_path: Path) -> None:
    """A zip bomb, a script, a playlist: nobody unpacks, runs or follows them."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50 * 1024**2))
    assert await checked(tmp_path, bomb.getvalue()) == "application/zip"
    for body in (b"<svg onload='alert(1)'/>", b"#!/bin/sh\nrm -rf /\n", playlist("/etc/passwd"), b"\0"):
        assert await checked(tmp_path, body) == UNKNOWN


async def test_the_limits_of_a_deployment_are_larger(tmp_path: Path) -> None:
    """What is refused above for its size is an ordinary file there."""
    for name in ("a WebP of too many frames", "an MP4 of too many frames"):
        assert await checked(tmp_path, HOSTILE[name](), MediaLimits())
