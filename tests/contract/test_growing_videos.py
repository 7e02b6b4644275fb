"""Each frame of a video counts with its own size, whatever size its container states."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from comfyui_modal import ROOT
from storage.errors import FileRefused
from storage.intake.frame_sizes import FrameSizes
from storage.intake.media_check import MediaCheck, MediaLimits

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
SMALL, LARGE = (64, 48), (640, 480)
LIMITS = MediaLimits(max_video_pixels=2_000_000)
X264 = {"preset": "ultrafast", "g": "1", "x264-params": "repeat-headers=1:log=-1"}
X265 = {"preset": "ultrafast", "x265-params": "keyint=1:repeat-headers=1:log-level=none:pools=1:frame-threads=1"}
CODECS: list[tuple[str, str, str, dict[str, str]]] = [
    ("libx264", "mp4", "yuv420p", X264),
    ("libx264", "matroska", "yuv444p", X264),
    ("libx265", "mp4", "yuv420p", X265),
    ("libsvtav1", "matroska", "yuv420p", {"preset": "12", "g": "1", "svtav1-params": "lp=1"}),
    ("libvpx", "webm", "yuv420p", {"deadline": "realtime", "cpu-used": "8", "g": "0"}),
    ("libvpx-vp9", "webm", "yuv420p", {"deadline": "realtime", "cpu-used": "8", "g": "0"}),
    ("libvpx-vp9", "matroska", "yuv444p", {"deadline": "realtime", "cpu-used": "8", "g": "0"}),
    ("mjpeg", "avi", "yuvj420p", {}),
    ("png", "mov", "rgb24", {}),
    ("prores_ks", "mov", "yuv422p10le", {}),
    ("mpeg2video", "matroska", "yuv420p", {"g": "1"}),
    ("mpeg4", "avi", "yuv420p", {"g": "1"}),
    ("flv1", "flv", "yuv420p", {"g": "1"}),
]
Edit = Callable[[bytes], bytes]
NAMES = [f"{codec} in {container}" for codec, container, *_ in CODECS]


def packets(codec: str, pixels: str, options: dict[str, str], size: tuple[int, int], frames: int) -> list[bytes]:
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height = size
    context.pix_fmt, context.options, context.thread_count = pixels, options, 1
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    encoded = []
    for number in range(frames):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
        frame.pts = number
        encoded += context.encode(frame)
    return [bytes(packet) for packet in (*encoded, *context.encode(None))]


def growing(
    codec: str, container_format: str, pixels: str, options: dict[str, str], *, large: int, edit: Edit = bytes
) -> bytes:
    """Three small frames, then one large frame repeatedly, changed by `edit`, in a file that states the small size."""
    out = io.BytesIO()
    with av.open(out, "w", format=container_format) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height = SMALL
        stream.pix_fmt, stream.options = pixels, options
        stream.codec_context.thread_count = 1
        small = packets(codec, pixels, options, SMALL, 3)
        grown = packets(codec, pixels, options, LARGE, 1)[:1] if large else []
        for number, body in enumerate([*small, *map(edit, grown * large)]):
            packet = av.Packet(body)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), True
            packet.pts = packet.dts = number
            container.mux(packet)
    return out.getvalue()


def edited(body: bytes, edit: Edit) -> bytes:
    """An MP4 file whose large packets, which `growing` puts after three small packets, are changed."""
    out = io.BytesIO()
    with av.open(io.BytesIO(body), "r") as source, av.open(out, "w", format="mp4") as container:
        stream: Any = container.add_stream_from_template(source.streams.video[0])
        for number, found in enumerate(source.demux(video=0)):
            if found.size:
                packet = av.Packet(bytes(found) if number < 3 else edit(bytes(found)))
                packet.stream, packet.time_base, packet.is_keyframe = stream, found.time_base, True
                packet.pts = packet.dts = found.pts
                container.mux(packet)
    return out.getvalue()


def largest_decoded(body: bytes) -> tuple[int, int]:
    with av.open(io.BytesIO(body), "r") as container:
        return max((frame.width, frame.height) for frame in container.decode(video=0))


async def checked(tmp_path: Path, body: bytes) -> str:
    path = tmp_path / "file"
    path.write_bytes(body)
    return await MediaCheck().check(path, LIMITS)


@pytest.mark.parametrize(("codec", "container_format", "pixels", "options"), CODECS, ids=NAMES)
async def test_growing_frames_count_with_their_own_size(
    tmp_path: Path, codec: str, container_format: str, pixels: str, options: dict[str, str]
) -> None:
    """A video with ten frames of 640 by 480 exceeds two million pixels, and with two frames it does not."""
    assert await checked(tmp_path, growing(codec, container_format, pixels, options, large=2))
    with pytest.raises(FileRefused, match="frames of up to"):
        await checked(tmp_path, growing(codec, container_format, pixels, options, large=10))


@pytest.mark.parametrize(("codec", "container_format", "pixels", "options"), CODECS, ids=NAMES)
def test_an_ordinary_video_has_its_stated_size(
    codec: str, container_format: str, pixels: str, options: dict[str, str]
) -> None:
    """Each packet of an ordinary video is a frame of the stated size, rounded up to whole blocks."""
    body = growing(codec, container_format, pixels, options, large=0)
    with av.open(io.BytesIO(body), "r") as container:
        stream = container.streams.video[0]
        sizes = FrameSizes(stream)
        found = [size for packet in container.demux(stream) for size in sizes.of(packet)]
    assert len(found) == 3
    assert all(0 <= size[0] - SMALL[0] <= 16 and 0 <= size[1] - SMALL[1] <= 16 for size in found)


def after_the_start(inserted: bytes) -> Edit:
    """Inserts bytes after the start marker of a JPEG."""
    return lambda body: body[:2] + inserted + body[2:]


def unit(body: bytes) -> bytes:
    """A NAL unit after its length."""
    return len(body).to_bytes(4) + body


def within_a_unit(body: bytes) -> bytes:
    """Moves the first NAL unit into a filler unit, after a start code."""
    end = 4 + int.from_bytes(body[:4])
    return unit(b"\x0c\xff\x80\0\0\1" + body[4:end]) + body[end:]


def with_sequence(text: str) -> Edit:
    """The packet with this parameter set, by which FFmpeg decodes 640 by 480 and a usual reader something else."""
    return lambda body: b"".join(unit(bytes.fromhex(text) if one[0] & 31 == 7 else one) for one in nal_units(body))


HIDDEN: dict[str, tuple[str, Edit]] = {
    "JPEG, a marker that has no segment": ("mjpeg", after_the_start(b"\xff\x02\xff\xff")),
    "JPEG, an unknown marker": ("mjpeg", after_the_start(b"\xff\xf1\xff\xff")),
    "JPEG, a segment that does not fit": ("mjpeg", after_the_start(b"\xff\xe5\xff\xff")),
    "PNG, a text before the header": ("png", lambda body: body[:8] + b"\0\0\0\3tEXta\0b" + bytes(4) + body[8:]),
    "MPEG-2, an empty extension": ("mpeg2video", lambda body: b"\0\0\1\xb5" + body),
    "H.264, a byte after the units": ("libx264", lambda body: body + b"\0"),
    "H.264, an empty parameter set": ("libx264", lambda body: unit(b"\x67") + body),
    "H.264, a start code within a unit": ("libx264", within_a_unit),
    "H.264, a parameter set that is read with its emulation bytes": (
        "libx264",
        with_sequence("6742001ed4000003163e7dc0a03d90"),
    ),
    "H.264, a number with more than 31 zeros": ("libx264", with_sequence("6742001ed400000000000fffff0280f67a11e4")),
}


@pytest.mark.parametrize("name", HIDDEN)
async def test_no_inserted_bytes_hide_a_header(tmp_path: Path, name: str) -> None:
    """The check finds all large frames that the decoder finds, whatever bytes surround their headers."""
    codec, edit = HIDDEN[name]
    _, container_format, pixels, options = next(row for row in CODECS if row[0] == codec)
    if codec == "libx264":
        body = edited(growing(codec, container_format, pixels, options, large=10), edit)
    else:
        body = growing(codec, container_format, pixels, options, large=10, edit=edit)
    assert largest_decoded(body) == LARGE
    with pytest.raises(FileRefused, match="frames of up to"):
        await checked(tmp_path, body)


def nal_units(body: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(body):
        end = at + 4 + int.from_bytes(body[at : at + 4])
        found.append(body[at + 4 : end])
        at = end
    return found


def as_configuration(body: bytes) -> bytes:
    """A packet's parameter sets in the form of a file header (ISO/IEC 14496-15, 5.3.3.1), for lengths of two bytes."""
    sequence = next(nal for nal in nal_units(body) if nal[0] & 31 == 7)
    picture = next(nal for nal in nal_units(body) if nal[0] & 31 == 8)
    head = bytes([1, sequence[1], 0, sequence[3], 0xFC | 1, 0xE0 | 1])
    return head + len(sequence).to_bytes(2) + sequence + b"\1" + len(picture).to_bytes(2) + picture


async def test_jpeg_ls_among_jpegs_counts_with_its_own_size(tmp_path: Path) -> None:
    """A JPEG-LS frame in an MJPEG video, which FFmpeg's MJPEG decoder also reads, counts with its own size."""
    _, container_format, pixels, options = next(row for row in CODECS if row[0] == "mjpeg")
    (large,) = packets("jpegls", "gray", {}, LARGE, 1)
    body = growing("mjpeg", container_format, pixels, options, large=10, edit=lambda _: large)
    assert largest_decoded(body) == LARGE
    with pytest.raises(FileRefused, match="frames of up to"):
        await checked(tmp_path, body)


async def test_a_packet_may_be_a_configuration(tmp_path: Path) -> None:
    """A packet that FFmpeg reads as the file's new header, with another length size, hides no large frame."""
    _, container_format, pixels, options = CODECS[0]
    numbers = count()

    def edit(body: bytes) -> bytes:
        if next(numbers) % 2 == 0:
            return as_configuration(body)
        return b"".join(len(nal).to_bytes(2) + nal for nal in nal_units(body) if nal[0] & 31 == 5)

    body = edited(growing("libx264", container_format, pixels, options, large=20), edit)
    assert largest_decoded(body) == LARGE
    with pytest.raises(FileRefused, match="frames of up to"):
        await checked(tmp_path, body)


@pytest.mark.parametrize("container_format", ["matroska", "mp4"])
@pytest.mark.parametrize("resize", ["", ":resize-mode=1:resize-denom=16:resize-kf-denom=16"], ids=["usual", "resized"])
async def test_av1_frames_with_a_size_of_their_own_count_at_their_largest(
    tmp_path: Path, container_format: str, resize: str
) -> None:
    """AV1 frames that state their own size count at the largest that their headers can state, other frames do not."""
    path = tmp_path / "file"
    with av.open(str(path), "w", format=container_format) as container:
        stream: Any = container.add_stream("libsvtav1", rate=25)
        stream.width, stream.height = LARGE
        stream.pix_fmt, stream.options = "yuv420p", {"preset": "12", "svtav1-params": f"lp=1{resize}"}
        for number in range(10):
            picture = np.full((LARGE[1], LARGE[0], 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    limits = LIMITS.model_copy(update={"max_video_pixels": 10 * 640 * 480})
    if resize:
        with pytest.raises(FileRefused, match="frames of up to 524288 pixels"):
            await MediaCheck().check(path, limits)
    else:
        assert await MediaCheck().check(path, limits)


def gif(size: tuple[int, int]) -> bytes:
    """A GIF of 45 bytes with one pixel on a canvas of this size."""
    canvas = b"GIF89a" + struct.pack("<HHBBB", *size, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return canvas + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0;"


def gifs_in_a_movie(path: Path, sizes: list[tuple[int, int]]) -> bytes:
    with av.open(str(path), "w", format="mov", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream("gif", rate=25)
        stream.width, stream.height = sizes[0]
        stream.pix_fmt, stream.codec_context.codec_tag = "rgb8", "gif "
        for number, size in enumerate(sizes):
            packet = av.Packet(gif(size))
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), True
            packet.pts = packet.dts = number
            container.mux(packet)
    return path.read_bytes()


async def test_a_frame_that_the_check_has_no_memory_for_is_refused(tmp_path: Path) -> None:
    """FFmpeg reports a lack of memory like a broken packet, which a loader with more memory decodes."""
    body = gifs_in_a_movie(tmp_path / "movie", [SMALL] * 3 + [(16_000, 10_000)] * 20)
    with pytest.raises(FileRefused, match="MiB of memory"):
        await checked(tmp_path, body)


def packed_pictures(path: Path, *, attached_mib: int) -> None:
    """Write a Matroska file of small JPEGs, then large ones, each in a block of 9 MB that is packed by zlib.

    Its attachments, which are holes, take most of the memory that a check has.
    """
    small, large = (zlib.compress(jpeg(side) + bytes(padding), 1) for side, padding in ((16, 0), (1_500, 9_000_000)))
    blocks = [small] * 100 + [large] * 60
    packed = element("6D80", element("6240", element("5034", element("4254", b"\0"))))
    size = element("E0", element("B0", b"\x10") + element("BA", b"\x10"))
    about = element("D7", b"\1") + element("73C5", b"\1") + element("83", b"\1") + element("86", b"V_MJPEG")
    track = element("1654AE6B", element("AE", about + packed + size))
    clusters = b"".join(
        element("1F43B675", element("E7", number.to_bytes(2)) + element("A3", b"\x81\0\0\x80" + block))
        for number, block in enumerate(blocks)
    )
    named = element("466E", b"a") + element("4660", b"application/x") + element("46AE", b"\7")
    attached = element("61A7", named + element("465C", b"", more=MIB), more=MIB)
    head = bytes.fromhex("1A45DFA393428288") + b"matroska" + bytes.fromhex("4287810442858102")
    attachments = element("1941A469", b"", more=attached_mib * (len(attached) + MIB))
    inside = element("1549A966", element("2AD7B1", b"\x0f\x42\x40")) + track + attachments
    more = attached_mib * (len(attached) + MIB) + len(clusters)
    with path.open("wb") as file:
        file.write(head + element("18538067", inside, more=more))
        for _ in range(attached_mib):
            file.write(attached)
            file.seek(MIB, os.SEEK_CUR)
        file.write(clusters)


def jpeg(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "JPEG")
    return file.getvalue()


def element(name: str, body: bytes, *, more: int = 0) -> bytes:
    """Return an element of a Matroska file, of which `more` bytes follow."""
    return bytes.fromhex(name) + (len(body) + more | 1 << 56).to_bytes(8) + body


@pytest.mark.parametrize("attached_mib", [1, 194])
async def test_packed_frames_that_the_check_has_no_memory_for_are_refused(tmp_path: Path, attached_mib: int) -> None:
    """Blocks of a Matroska file that there is no memory to unpack are not skipped."""
    packed_pictures(tmp_path / "file", attached_mib=attached_mib)
    limits = LIMITS.model_copy(update={"max_video_pixels": 50_000_000})
    with pytest.raises(FileRefused, match="MiB of memory" if attached_mib > 1 else "frames of up to"):
        await MediaCheck().check(tmp_path / "file", limits)


def test_an_examination_that_had_too_little_memory_is_refused(tmp_path: Path) -> None:
    """A file is refused if its examination has exceeded its memory at some time, whatever it has found."""
    path = tmp_path / "file"
    path.write_bytes(gifs_in_a_movie(tmp_path / "movie", [SMALL]))
    code = (
        "import sys; from storage.intake import probe\n"
        "probe.limit_itself(sys.argv[1], probe.MEMORY_BYTES + probe.HEADROOM_BYTES)\n"
        "bytearray(int(sys.argv[2]) * 2**20)\n"
        f"print(probe.answer(sys.argv[1], 'video/quicktime', {LIMITS.model_dump()}))"
    )
    answers = [
        subprocess.run([sys.executable, "-c", code, path, mib], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        for mib in ("1", "600")
    ]
    assert b"extents" in answers[0]
    assert b"it takes more than 512 MiB of memory" in answers[1]


async def test_an_index_that_the_check_has_no_memory_for_is_refused(tmp_path: Path) -> None:
    """FFmpeg drops such an index without an error, and finds no packet at all."""
    body = bytearray(gifs_in_a_movie(tmp_path / "movie", [LARGE] * 100))
    for box, offset in ((b"stsz", 12), (b"stsc", 16), (b"stts", 12)):
        at = body.index(box) + offset
        body[at : at + 4] = (20_000_000).to_bytes(4)
    with pytest.raises(FileRefused, match="index"):
        await checked(tmp_path, bytes(body))
