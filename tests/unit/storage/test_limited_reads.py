"""In-process parsers of headers read a limited number of bytes, whatever a file says."""

import io
import tracemalloc
from pathlib import Path

import pytest

from storage.intake.limited_reads import LimitedReads, TooManyBytes
from storage.intake.walkers import MAX_COMPRESSED_CHUNKS, has_light_header
from workers.outputs.media import examine

SPARSE_BYTES = 64 * 1024**2


def test_one_read_is_limited() -> None:
    """A read of more bytes than are allowed at once fails, and smaller ones pass."""
    limited = LimitedReads(io.BytesIO(bytes(100)), each=10)
    assert [len(limited.read(10)), len(limited.read(3))] == [10, 3]
    with pytest.raises(TooManyBytes):
        limited.read(11)
    limited.seek(95)
    assert len(limited.read()) == 5


def test_all_reads_together_are_limited() -> None:
    """Many small reads fail once they exceed the total."""
    limited = LimitedReads(io.BytesIO(bytes(100)), each=10, total=25)
    assert [len(limited.read(10)) for _ in range(2)] == [10, 10]
    with pytest.raises(TooManyBytes):
        limited.read(6)


@pytest.mark.parametrize(("size", "is_light"), [(12, True), (40, True), (124, True), (41, False), (2**31, False)])
def test_a_bmp_is_light_with_a_header_that_exists(size: int, *, is_light: bool) -> None:
    """A BMP whose header has another size than those of the format is examined in a process of its own."""
    file = io.BytesIO(b"BM" + bytes(12) + size.to_bytes(4, "little") + bytes(200))
    assert has_light_header(file, "BMP") is is_light


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_png_is_light_with_few_compressed_chunks(kind: bytes) -> None:
    """A PNG with many chunks that Pillow inflates is examined in a process of its own; plain texts are not counted."""
    chunk, plain = bytes(4) + kind + bytes(4), bytes(4) + b"tEXt" + bytes(4)
    few, end = chunk * MAX_COMPRESSED_CHUNKS + plain * 1000, bytes(4) + b"IEND" + bytes(4)
    assert has_light_header(io.BytesIO(bytes(8) + few + end), "PNG")
    assert not has_light_header(io.BytesIO(bytes(8) + few + chunk + end), "PNG")


@pytest.mark.parametrize(("segments", "is_light"), [(0, True), (1, True), (2, False)])
def test_a_jpeg_is_light_with_one_segment_of_exif(segments: int, *, is_light: bool) -> None:
    """Pillow joins several segments of EXIF and would make an object of each of up to 500,000 numbers."""
    exif, xmp = (b"\xff\xe1" + (2 + len(text)).to_bytes(2) + text for text in (b"Exif\0\0MM", b"http://ns.adobe.com"))
    file = io.BytesIO(b"\xff\xd8" + xmp + exif * segments + xmp + b"\xff\xda")
    assert has_light_header(file, "JPEG") is is_light


def _segment(mark: int, body: bytes) -> bytes:
    return bytes([0xFF, mark]) + (2 + len(body)).to_bytes(2) + body


_PHOTO = {
    "jfif": _segment(0xE0, b"JFIF\0" + bytes(9)),
    "exif": _segment(0xE1, b"Exif\0\0MM" + bytes(30_000)),
    "xmp": _segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(30_000)),
    "profile": _segment(0xE2, b"ICC_PROFILE\0" + bytes(65_000)) * 32,
    "photoshop": _segment(0xED, b"Photoshop 3.0\0" + bytes(60_000)) * 2,
    "adobe": _segment(0xEE, b"Adobe" + bytes(7)),
    "comment": _segment(0xFE, b"a camera"),
    "quantization": _segment(0xDB, bytes(65)) * 4,
    "frame": _segment(0xC2, bytes(6 + 3 * 4)),
    "huffman": _segment(0xC4, bytes(400)) * 4,
    "restart": _segment(0xDD, bytes(2)),
}
"""The segments of a photo of a camera or of Photoshop."""


@pytest.mark.parametrize(
    "more",
    [
        _PHOTO["frame"],
        _segment(0xDE, bytes(18)),
        _PHOTO["quantization"],
        _PHOTO["photoshop"] * 2,
        _segment(0xE2, b"MPF\0" + bytes(60)),
        _segment(0xF7, b"an extension"),
        _segment(0xFE, b"") * 200,
    ],
)
def test_a_jpeg_is_light_with_the_segments_of_a_photo(more: bytes) -> None:
    """A JPEG with more frames, tables or resources than a photo has is examined in a process of its own."""
    photo, end = b"\xff\xd8" + b"".join(_PHOTO.values()), b"\xff\xda"
    assert has_light_header(io.BytesIO(photo + end), "JPEG")
    assert not has_light_header(io.BytesIO(photo + more + end), "JPEG")


@pytest.mark.parametrize("segment", [_segment(0xC0, bytes(6 + 3 * 5)), _segment(0xDB, bytes(65 * 9))])
def test_a_jpeg_with_a_long_frame_header_or_table_is_not_light(segment: bytes) -> None:
    """Pillow runs Python code for each channel and each table, of which a segment may have thousands."""
    assert not has_light_header(io.BytesIO(b"\xff\xd8" + segment + b"\xff\xda"), "JPEG")


def test_a_sparse_output_with_a_long_chunk_takes_no_memory(tmp_path: Path) -> None:
    """An output that is a PNG with a chunk of holes is examined without reading the chunk into this process."""
    path = tmp_path / "holes.png"
    head = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4) + b"IHDR" + bytes.fromhex("00000008000000080802000000") + bytes(4)
    with path.open("wb") as file:
        file.write(head + SPARSE_BYTES.to_bytes(4) + b"prVt")
        file.truncate(len(head) + 8 + SPARSE_BYTES + 4)
        file.seek(0, 2)
        file.write(bytes(4) + b"IEND" + bytes(4))
    with path.open("rb") as file:
        assert not has_light_header(file, "PNG")
    tracemalloc.start()
    try:
        assert examine(path, "holes.png").size_bytes == path.stat().st_size
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < SPARSE_BYTES / 8
