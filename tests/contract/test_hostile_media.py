"""Media files that would harm their reader are refused with a reason, before an engine opens them."""

import asyncio
import base64
import io
import os
import signal
import struct
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from infra.settings import Settings
from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.concurrency import gather
from storage.errors import CheckUnavailable, FileRefused
from storage.intake.media_check import MediaCheck, MediaLimits
from storage.jobs.models import InputFile
from tests.support.api_server import Api, running_api
from workers.errors import BadInputFile
from workers.preparation import fetch_inputs

pytestmark = pytest.mark.anyio

SMALL = MediaLimits(max_pixels=1_000_000, max_animation_pixels=2_000_000, max_video_pixels=5_000_000, max_media_s=60)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, pixels: bytes | None = None) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = zlib.compress(bytes(width + 1) * height, 9) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def gif(width: int, height: int, frames: int, tail: bytes = b";") -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * frames + tail


def picture(kind: str, *, size: tuple[int, int] = (8, 8), frames: int = 1, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    colours = [(number * 30 % 255, 0, 0) if mode == "RGB" else 0 for number in range(frames)]
    pictures = [Image.new(mode, size, colour) for colour in colours]
    pictures[0].save(out, kind, **({"save_all": True, "append_images": pictures[1:]} if frames > 1 else {}))
    return out.getvalue()


def tiff(width: int, height: int, pages: int, mark: bytes = b"") -> bytes:
    """A TIFF whose pages share one strip; the mark after its header makes it a camera's raw file."""
    strip = zlib.compress(bytes(width) * height, 9)
    start = 8 + len(mark)
    at = start + len(strip)
    entries = (
        (256, width),
        (257, height),
        (258, 8),
        (259, 8),
        (262, 1),
        (273, start),
        (278, height),
        (279, len(strip)),
    )
    out = b"II*\0" + struct.pack("<I", at) + mark + strip
    for page in range(1, pages + 1):
        at += 2 + 12 * len(entries) + 4
        out += struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in entries)
        out += struct.pack("<I", at if page < pages else 0)
    return out


def two_readings(extension: bytes, frames: int) -> bytes:
    """A GIF whose extension ends early for some readers; others read on to what the first took for a comment."""
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    hidden = bytes(32) + frame * frames
    comment = b"!\xfe" + bytes([len(hidden)]) + hidden + b"\0"
    return gif(500, 500, 0, tail=extension + comment + b";")


def wide_frame(width: int, height: int) -> bytes:
    """A GIF with a frame larger than its stated canvas."""
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return gif(5, 5, 1, tail=frame + b";")


def as_stl(head: bytes) -> bytes:
    """A file whose facet count fits its size, as in an STL file."""
    return head.ljust(80)[:80] + struct.pack("<I", 2) + bytes(100)


def icon(width: int, height: int) -> bytes:
    """An icon listed as 16 by 16 that contains a picture of another size."""
    inside = png(width, height)
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inside), 22) + inside


def frames_of(*sizes: tuple[int, int], kind: str) -> bytes:
    out = io.BytesIO()
    first, *others = (Image.new("RGB", size) for size in sizes)
    first.save(out, kind, save_all=True, append_images=others)
    return out.getvalue()


def short_by_its_header() -> bytes:
    """A Matroska file of two seconds whose header states 40 milliseconds."""
    body = video(640, 480, 20, container_format="matroska")
    at = body.index(b"\x44\x89\x88")
    return patched(body, at + 3, struct.pack(">d", 40.0))


def video(width: int, height: int, frames: int, rate: int = 10, container_format: str = "mp4") -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=container_format) as container:
        stream: Any = container.add_stream(
            {"flv": "flv1", "mpegts": "mpeg2video"}.get(container_format, "mpeg4"), rate=rate
        )
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


def text_bomb() -> bytes:
    return png(8, 8, png_chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(80 * 1024**2), 9)))


HOSTILE: dict[str, Callable[[], bytes]] = {
    "a PNG that claims 2^31 pixels in a row": lambda: png(2**31 - 1, 1, pixels=zlib.compress(b"")),
    "a PNG of 50,000 by 50,000 in few bytes": lambda: png(50_000, 50_000, pixels=zlib.compress(bytes(100))),
    "a PNG without pixels": lambda: png(0, 0),
    "a PNG whose text is a bomb": text_bomb,
    "a PNG that ends within its pixels": lambda: png(800, 800)[:-40],
    "a PNG with a wrong checksum": lambda: patched(png(8, 8), 30, b"\xff"),
    "an APNG of too many frames": lambda: png(900, 900, png_chunk(b"acTL", struct.pack(">II", 10_000, 0))),
    "a JPEG that claims 65,535 by 65,535": lambda: picture("JPEG").replace(b"\x00\x08\x00\x08", b"\xff\xff\xff\xff"),
    "a JPEG that is only its first bytes": lambda: picture("JPEG")[:20],
    "a GIF of 65,535 by 65,535": lambda: gif(65_535, 65_535, 1),
    "a GIF of 100,000 frames": lambda: gif(500, 500, 100_000),
    "a GIF of many frames of one pixel": lambda: gif(1, 1, 900),
    "an APNG of many frames of one pixel": lambda: png(1, 1, png_chunk(b"acTL", struct.pack(">II", 900, 0))),
    "a GIF that ends within its header": lambda: gif(5, 5, 1)[:9],
    "a GIF with an unknown block": lambda: gif(5, 5, 1, tail=b"\x99"),
    "a GIF of endless blocks": lambda: gif(5, 5, 0, tail=b"!\xfe" + b"\x01x" * 1_000_001),
    "a WebP of too many frames": lambda: picture("WEBP", size=(600, 600), frames=8),
    "a WebP that ends early": lambda: picture("WEBP")[:40],
    "a TIFF of many pages": lambda: tiff(900, 900, 3),
    "a camera's TIFF of many pages": lambda: tiff(900, 900, 3, b"CR\x02\0\0\0\0\0"),
    "a TIFF whose second page is large": lambda: frames_of((8, 8), (2_000, 2_000), kind="TIFF"),
    "a JPEG whose second picture is large": lambda: frames_of((8, 8), (2_000, 2_000), kind="MPO"),
    "a GIF whose frames follow an empty extension": lambda: two_readings(b"!\xf9\0", 9),
    "a GIF whose frames follow a short extension": lambda: two_readings(b"!\xff\x0bNETSCAPE2.0\0", 9),
    "a GIF whose frame is larger than itself": lambda: wide_frame(3_000, 3_000),
    "an AVIF of too many frames": lambda: picture("AVIF", size=(600, 600), frames=8),
    "a PCX of few bytes": lambda: picture("PCX", size=(3_000, 3_000), mode="1"),
    "a TGA": lambda: picture("TGA", size=(3_000, 3_000), mode="L"),
    "an icon of another size than listed": lambda: icon(3_000, 3_000),
    "a Matroska file that is longer than stated": short_by_its_header,
    "an FLV of too many frames": lambda: video(640, 480, 20, container_format="flv"),
    "a transport stream, which has no signature": lambda: video(640, 480, 20, container_format="mpegts"),
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


async def checked(tmp_path: Path, body: bytes, limits: MediaLimits = SMALL, *, data: bool = False) -> str:
    path = tmp_path / "file"
    path.write_bytes(body)
    return await MediaCheck().check(path, limits, data=data)


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_file_is_refused(tmp_path: Path, name: str) -> None:
    """A hostile file is refused with a message."""
    with pytest.raises(FileRefused) as refused:
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
        (picture("AVIF", frames=3), "image/avif"),
        (tiff(100, 100, 3), "image/tiff"),
        (frames_of((8, 8), (9, 9), kind="MPO"), "image/jpeg"),
        (video(64, 48, 3, container_format="matroska"), "video/x-matroska"),
        (gif(100, 100, 30), "image/gif"),
        (gif(100, 100, 3, tail=b""), "image/gif"),
        (MP4, "video/mp4"),
        (wav(5), "audio/x-wav"),
    ],
)
async def test_an_ordinary_file_passes(tmp_path: Path, body: bytes, content_type: str) -> None:
    """An ordinary file is accepted with the content type of its bytes."""
    assert await checked(tmp_path, body) == content_type


OTHERS: dict[str, Callable[[], bytes]] = {
    "PostScript": lambda: picture("EPS"),
    "PostScript with a preview": lambda: b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, 100) + bytes(20) + picture("EPS"),
    "a Windows metafile": lambda: b"\xd7\xcd\xc6\x9a\0\0" + bytes(100),
    "an OLE file, as FlashPix is": lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "a small icon": lambda: icon(16, 16),
    "a small TGA": lambda: picture("TGA", mode="L"),
    "text": lambda: b"hello",
    "HTML": lambda: b"<html><script>alert(1)</script></html>",
    "SVG": lambda: b"<svg onload='alert(1)'/>",
    "a script": lambda: b"#!/bin/sh\nrm -rf /\n",
    "a playlist": lambda: playlist("/etc/passwd"),
    "a playlist with a line of a 3D model": lambda: playlist("/etc/passwd") + b"v 1 2 3\n",
    "a list of files": lambda: b"ffconcat version 1.0\nfile /etc/passwd\n",
    "PostScript of the size of an STL": lambda: as_stl(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "a Photoshop file of the size of an STL": lambda: as_stl(b"8BPS\0\1" + bytes(6) + b"\0\1"),
    "a DDS of the size of an STL": lambda: as_stl(b"DDS \x7c\0\0\0"),
    "a playlist of the size of an STL": lambda: as_stl(playlist("/etc/passwd")),
    "a portable map of the size of an STL": lambda: as_stl(b"P6 30000 30000 255\n"),
    "a session description": lambda: b"v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    "a zip": lambda: zipped(b"zeros"),
    "nothing": lambda: b"",
    "a zero": lambda: b"\0",
}
"""Files that are in no format listed for media or for data."""
DATA: dict[str, tuple[bytes, str]] = {
    "GLB": (b"glTF" + struct.pack("<II", 2, 20) + bytes(8), "model/gltf-binary"),
    "glTF": (b'{"asset": {"version": "2.0"}}', "application/json"),
    "OBJ": (b"# a cube\nmtllib cube.mtl\no cube\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "model/obj"),
    "long OBJ": (b"v 0.125 0.5 0.25\r\n" * 1000, "model/obj"),
    "STL": (bytes(80) + struct.pack("<I", 2) + bytes(100), "model/stl"),
    "STL as text": (b"solid cube\nendsolid\n", "model/stl"),
    "PLY": (b"ply\nformat ascii 1.0\n", "model/ply"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", "application/safetensors"),
}


def zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("content", content)
    return out.getvalue()


@pytest.mark.parametrize("name", OTHERS)
async def test_a_file_of_no_listed_format_is_refused(tmp_path: Path, name: str) -> None:
    """A file of no listed format is refused even as data, so that no unlisted decoder reads it."""
    for data in (False, True):
        with pytest.raises(FileRefused, match="format"):
            await checked(tmp_path, OTHERS[name](), data=data)


def heic(brand: bytes = b"heic", *others: bytes) -> bytes:
    """The first box of a HEIC file, by which readers recognise it."""
    brands = b"".join((brand, bytes(4), *others))
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(64)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc", b"mif1", b"msf1"])
async def test_heic_is_refused_with_advice(tmp_path: Path, brand: bytes) -> None:
    """A HEIC file, which ComfyUI accepts and then cannot open, is refused with advice on conversion."""
    for others in ((), (b"mif1", b"heic")):
        for data in (False, True):
            with pytest.raises(FileRefused, match="HEIC picture, which ComfyUI cannot read: convert it to JPEG or PNG"):
                await checked(tmp_path, heic(brand, *others), data=data)


@pytest.mark.parametrize("name", DATA)
async def test_data_for_loaders_is_accepted_only_as_data(tmp_path: Path, name: str) -> None:
    """3D models, safetensors and JSON are accepted as data and refused as media."""
    body, content_type = DATA[name]
    assert await checked(tmp_path, body, data=True) == content_type
    with pytest.raises(FileRefused, match="format"):
        await checked(tmp_path, body)


async def test_a_file_of_two_formats_counts_as_the_larger_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safetensors that Pillow opens as a PCX picture are measured as that picture."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", MediaLimits().max_pixels)  # a worker raises it for its outputs
    length = 0x0100050A  # a PCX's first bytes, with one bit a pixel
    body = bytearray(struct.pack("<Q", length) + b"{  n" + bytes(length - 4))  # then its last column and row
    body[65] = 1
    with pytest.raises(Image.DecompressionBombError), Image.open(io.BytesIO(bytes(body))):
        pass
    with pytest.raises(FileRefused, match="pixels"):
        await checked(tmp_path, bytes(body), data=True)


async def test_a_stream_after_data_is_measured(tmp_path: Path) -> None:
    """A sound that FFmpeg finds after the start of a 3D model is measured."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp3") as container:
        stream: Any = container.add_stream("libmp3lame", rate=8_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 70 * 8_000), np.int16), format="s16p", layout="mono")
        frame.sample_rate = 8_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(FileRefused, match="long"):
        await checked(tmp_path, b"ply\n" + out.getvalue(), data=True)


async def test_a_file_that_a_loader_takes_for_a_playlist_is_refused(tmp_path: Path) -> None:
    """A file that FFmpeg would open as a playlist is refused, because only listed formats are opened."""
    body = b"ID3\x04\0\0\0\0\0\0" + playlist("/etc/passwd")
    with pytest.raises(FileRefused, match="cannot be read"):
        await checked(tmp_path, body)


async def test_large_canvases_take_little_memory(tmp_path: Path) -> None:
    """A WebP of 90 million pixels is measured in a probe with 512 MiB, which cannot hold two such canvases."""
    body = picture("WEBP", size=(16, 16), frames=2)
    at = body.index(b"VP8X") + 12
    large = patched(body, at, (9_000 - 1).to_bytes(3, "little") + (10_000 - 1).to_bytes(3, "little"))
    assert await checked(tmp_path, large, MediaLimits()) == "image/webp"
    with pytest.raises(FileRefused, match="pixels"):
        await checked(tmp_path, large)


def probes_of_this_process() -> list[int]:
    """The process ids of the probes that are running."""
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return [int(child) for child in children if b"storage.intake.probe" in _command(child)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


SLOW_GIF = gif(5, 5, 0, tail=(b"!\xfe" + b"\x01x" * 100_000 + b"\0") * 8 + b";")
"""A file within every limit that takes a probe seconds."""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc")
async def test_a_killed_probe_does_not_refuse_the_file(tmp_path: Path) -> None:
    """A probe that the system kills, for example for lack of memory, is reported as unavailable."""
    checking = asyncio.create_task(checked(tmp_path, SLOW_GIF))
    while not (probes := probes_of_this_process()):
        await asyncio.sleep(0.005)
        assert not checking.done()
    os.kill(probes[0], signal.SIGKILL)
    with pytest.raises(CheckUnavailable):
        await checking


def jpeg(before_the_picture: bytes) -> bytes:
    plain = picture("JPEG")
    return plain[:2] + before_the_picture + plain[2:]


COSTLY: dict[str, bytes] = {
    "a PNG of many chunks": png(8, 8, png_chunk(b"prVt", b"") * 20_000),
    "a PNG with a long chunk": png(8, 8, png_chunk(b"prVt", bytes(9 * 1024**2))),
    "a JPEG of many segments": jpeg(b"\xff\xfe\0\2" * 2_000),
    "a JPEG whose header is long": jpeg((b"\xff\xe1\xff\xfeExif\0\0" + bytes(0xFFF6)) * 70),
    "a JPEG with padding between its segments": jpeg(b"\xff" * 10_000),
}


@pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc")
@pytest.mark.parametrize("name", COSTLY)
async def test_a_costly_header_is_read_in_a_probe(tmp_path: Path, name: str) -> None:
    """A header of many parts is read in a probe, because 50 MB of it took the API 20 s and 1.8 GB."""
    checking = asyncio.create_task(checked(tmp_path, COSTLY[name]))
    while not probes_of_this_process():
        assert not checking.done()
        await asyncio.sleep(0.005)
    assert await checking in ("image/png", "image/jpeg")


async def test_a_broken_header_is_refused_in_plain_words(tmp_path: Path) -> None:
    """The refusal of a picture whose header is broken names no object of the process."""
    broken = bytearray(png(8, 8))
    broken[29] ^= 1  # in the checksum of its first chunk
    with pytest.raises(FileRefused) as refused:
        await checked(tmp_path, bytes(broken))
    assert str(refused.value) == "cannot be read as PNG: its header is broken"


async def test_a_broken_chunk_among_many_is_refused(tmp_path: Path) -> None:
    """The probe compares the checksums of all chunks."""
    with pytest.raises(FileRefused):
        await checked(tmp_path, png(8, 8, png_chunk(b"prVt", b"") * 20_000, png_chunk(b"tEXt", b"a")[:-1] + b"?"))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc")
async def test_concurrent_files_wait_for_few_probes(clock: ManualClock) -> None:
    """All valid files of a tenant's burst are accepted, and one of the probes is left to other tenants."""
    settings = Settings(bucket="tests", max_media_checks=3)
    most = 0
    async with running_api(MemoryObjectStore(clock), clock, settings=settings) as api:
        sending = [asyncio.create_task(submit(api, gif(100, 100, 3))) for _ in range(16)]
        while not all(task.done() for task in sending):
            most = max(most, len(probes_of_this_process()))
            await asyncio.sleep(0.005)
        assert [task.result().status_code for task in sending] == [202] * 16
    assert 1 <= most <= 2


async def test_too_many_waiting_files_get_503(clock: ManualClock) -> None:
    """Files above the limit of waiting checks get 503 with Retry-After, and those before them are examined."""
    settings = Settings(bucket="tests", max_media_checks=1, max_waiting_media_checks=1)
    async with running_api(MemoryObjectStore(clock), clock, settings=settings) as api:
        answers = await gather(*(submit(api, gif(100, 100, 3)) for _ in range(8)))
        refused = [answer for answer in answers if answer.status_code != 202]
        assert 1 <= len(refused) <= 6
        for answer in refused:
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/media-checks-busy")
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["pointer"] == "/media/0/data"
        assert (await submit(api, gif(100, 100, 3))).status_code == 202


LOAD = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
}


async def submit(api: Api, body: bytes) -> httpx.Response:
    media = [{"name": "a.png", "data": base64.b64encode(body).decode()}]
    return await api.client.post("/v1/jobs", json={"workflow": LOAD, "media": media})


@pytest.mark.parametrize("name", ["PostScript", "text", "HTML", "a zip"])
async def test_a_file_that_is_no_medium_is_refused_at_submission(
    objects: ObjectStore, clock: ManualClock, name: str
) -> None:
    """A file that is no medium is refused in base64 and as an upload, and nothing is stored for the job."""
    body = OTHERS[name]()
    async with running_api(objects, clock) as api:
        before = await api.keys()
        refused = await submit(api, body)
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/bad-medium")
        assert await api.keys() == before
        upload_request = {"size_bytes": len(body), "content_type": "application/octet-stream"}
        upload = (await api.client.post("/v1/uploads", json=upload_request)).json()["upload_id"]
        await objects.put(keys.upload_data("default", upload), body)
        document = {"workflow": LOAD, "media": [{"name": "a.png", "upload_id": upload}]}
        refused = await api.client.post("/v1/jobs", json=document)
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/bad-medium")


async def test_heic_is_refused_at_submission(objects: ObjectStore, clock: ManualClock) -> None:
    """A HEIC file in base64 or as an upload gets a problem with advice on conversion."""
    body = heic()
    async with running_api(objects, clock) as api:
        upload_request = {"size_bytes": len(body), "content_type": "image/heic"}
        upload = (await api.client.post("/v1/uploads", json=upload_request)).json()["upload_id"]
        await objects.put(keys.upload_data("default", upload), body)
        document = {"workflow": LOAD, "media": [{"name": "a.png", "upload_id": upload}]}
        for refused in (await submit(api, body), await api.client.post("/v1/jobs", json=document)):
            assert (refused.status_code, refused.json()["type"]) == (422, "/problems/bad-medium")
            assert "convert it to JPEG or PNG" in refused.json()["detail"]


@pytest.mark.real_bucket("bytes of files")
async def test_a_worker_refuses_files_of_no_listed_format(tmp_path: Path, objects: ObjectStore) -> None:
    """A worker keeps PostScript and HEIC out of the engine's input folder, even if an API accepted them."""
    for body, reason in ((picture("EPS"), "it is no picture"), (heic(), "it is a HEIC picture")):
        await objects.put("x.png", body)
        medium = InputFile(name="x.png", key="x.png", size_bytes=len(body), content_type="image/png")
        with pytest.raises(BadInputFile, match=rf"x\.png: {reason}"):
            await fetch_inputs((medium,), objects, tmp_path, MediaCheck(), MediaLimits())


async def test_the_default_limits_are_larger(tmp_path: Path) -> None:
    """Files that exceed the small limits of these tests are accepted under the default limits."""
    for name in ("a WebP of too many frames", "an MP4 of too many frames"):
        assert await checked(tmp_path, HOSTILE[name](), MediaLimits())


def test_the_hidden_frames_exist() -> None:
    """A loader counts all hidden frames of the refused GIF files."""
    for extension in (b"!\xf9\0", b"!\xff\x0bNETSCAPE2.0\0"):
        with Image.open(io.BytesIO(two_readings(extension, 9))) as picture_file:
            assert getattr(picture_file, "n_frames", 1) == 9


BLOCKS = st.sampled_from(
    [
        b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00",
        b"!\xf9\x04\0\0\0\0\0",
        b"!\xf9\0",
        b"!\xfe\0",
        b"!\xfe\x03abc\0",
        b"!\x01\0",
        b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0",
        b"!\xff\x0bNETSCAPE2.0\0",
        b"!\xff\0",
    ]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(BLOCKS, min_size=1, max_size=12))
async def test_no_gif_has_more_frames_than_counted(tmp_path: Path, blocks: list[bytes]) -> None:
    """A GIF in which a loader finds more frames than allowed is always refused."""
    body = gif(100, 100, 1, tail=b"".join(blocks) + b";")
    with Image.open(io.BytesIO(body)) as picture_file:
        frames = getattr(picture_file, "n_frames", 1)
    if frames > 3:
        with pytest.raises(FileRefused):
            await checked(tmp_path, body, MediaLimits(max_animation_pixels=30_000))


async def test_a_large_page_does_not_hide_small_pages(tmp_path: Path) -> None:
    """Small pages count as frames although a larger page follows them."""
    body = frames_of((1, 1), *[(1, 1)] * 20, (500, 500), kind="TIFF")
    assert await checked(tmp_path, body, MediaLimits(max_frames=22)) == "image/tiff"
    with pytest.raises(FileRefused, match="22 frames"):
        await checked(tmp_path, body, MediaLimits(max_frames=21))


@pytest.mark.parametrize(("frames", "is_refused"), [(10_000, False), (10_001, True), (900_000, True)])
async def test_the_frames_of_a_picture_are_limited(tmp_path: Path, frames: int, *, is_refused: bool) -> None:
    """The number of frames is limited regardless of their size, because loaders keep a mask for each frame."""
    body = gif(1, 1, frames)
    if is_refused:
        with pytest.raises(FileRefused, match=f"{frames} frames"):
            await checked(tmp_path, body, MediaLimits())
    else:
        assert await checked(tmp_path, body, MediaLimits()) == "image/gif"
