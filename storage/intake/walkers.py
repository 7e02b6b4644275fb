"""Reads the blocks of an image: the extent of a GIF or WebP, and whether the header of a PNG or JPEG is cheap to parse.

Nothing is decoded, and memory is constant. GIF and WebP are read in the processes that measure files, the headers of
PNG and JPEG in the caller's. Pillow would decode a GIF's frames, libwebp allocates two whole canvases before it reports
their size, and Pillow runs Python code for each part of a header and keeps the parts in memory.
"""

from collections import Counter
from collections.abc import Mapping
from typing import BinaryIO

MAX_GIF_BLOCKS = 1_000_000
"""Maximum blocks of a GIF; one of 250 MB has as many full ones."""
MAX_WEBP_CHUNKS = 1_000_000
_GIF_COMMENT = b"\xfe"

MAX_PNG_CHUNKS = 20_000
"""Maximum chunks of a PNG that Pillow reads in this process, in under 100 ms. A PNG of 50 MB has about 6,000."""
MAX_PNG_CHUNK = 8 * 1024**2
"""Maximum bytes of a PNG's chunk, and of all its chunks without pixels together: Pillow reads a chunk as a whole, twice
in memory, and keeps those that it does not know."""
MAX_COMPRESSED_CHUNKS = 10
"""Texts and profiles of a PNG that Pillow inflates, 1 MB of each; it counts them only where they are well-formed."""
MAX_JPEG_SEGMENTS = 200
"""Maximum segments of a JPEG that Pillow reads in this process. A colour profile of 2 MB has 32."""
MAX_JPEG_HEADER = 4 * 1024**2
"""Maximum bytes before a JPEG's image data."""
MAX_JPEG_FRAME = 2 + 6 + 3 * 4
"""Bytes of the header of a JPEG's one frame with four channels. Pillow makes an object of each channel in it."""
MAX_JPEG_TABLES = 4 * (2 + 1 + 128)
"""Bytes of all quantization tables of a JPEG: four of 64 numbers of two bytes each, which Pillow reads one by one."""
MAX_JPEG_RESOURCES = 4
"""Segments of Photoshop: Pillow runs Python code for each of up to 5,000 blocks in one. Long data take several."""

_FRAME, _TABLES, _EXIF, _RESOURCES, _PLAIN = "frame", "tables", "exif", "resources", "plain"
_MOST_OF_KIND: Mapping[str | None, int] = {
    _FRAME: 1,
    _TABLES: 4,
    _EXIF: 1,  # Pillow joins several, and makes an object of each number of a resolution in them to use the first
    _RESOURCES: MAX_JPEG_RESOURCES,
    _PLAIN: MAX_JPEG_SEGMENTS,
}

_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")
_PIXELS = (b"IDAT", b"fdAT")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


class BadFile(Exception):
    """The file is broken; the message says how."""


def gif_extent(file: BinaryIO) -> tuple[int, int, int]:
    """Return width, height and frames by the specification. A frame beyond the canvas enlarges the extent."""
    header = file.read(13)
    if len(header) < 13:
        raise BadFile("cannot be read as GIF: it ends within its header")
    width, height = int.from_bytes(header[6:8], "little"), int.from_bytes(header[8:10], "little")
    _skip_colours(file, header[10])
    frames = blocks = 0
    while (mark := file.read(1)) not in (b";", b""):
        label = b""
        if mark == b",":
            frames += 1
            about = file.read(9)
            left, top, across, down = (int.from_bytes(about[at : at + 2], "little") for at in (0, 2, 4, 6))
            width, height = max(width, left + across), max(height, top + down)
            _skip_colours(file, int.from_bytes(about[-1:]))
            file.read(1)  # the code size of the pixels
        elif mark == b"!":
            label = file.read(1)
        else:
            raise BadFile("cannot be read as GIF: there is an unknown block")
        count = _skip_blocks(file)
        if not count and label not in (b"", _GIF_COMMENT):
            raise BadFile("cannot be read as GIF: an extension is empty")  # readers disagree on how to continue
        blocks += count
        if blocks > MAX_GIF_BLOCKS:
            raise BadFile(f"more than {MAX_GIF_BLOCKS} blocks in a GIF")
    return width, height, max(1, frames)


def _skip_blocks(file: BinaryIO) -> int:
    """Skip the sub-blocks up to the empty one that ends them, and return their number."""
    count = 0
    while (size := file.read(1)) not in (b"\0", b"") and count <= MAX_GIF_BLOCKS:
        file.seek(size[0], 1)
        count += 1
    return count


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 * 2 ** ((flags & 7) + 1), 1)


def webp_extent(file: BinaryIO) -> tuple[int, int, int]:
    """Return width and height of the largest chunk with a size, and the number of `ANMF` chunks."""
    head = file.read(12)
    end = 8 + int.from_bytes(head[4:8], "little")
    if head[:4] != b"RIFF" or head[8:] != b"WEBP" or end > file.seek(0, 2):
        raise BadFile("cannot be read as WebP: it ends early")
    at, frames, size = 12, 0, (0, 0)
    for _ in range(MAX_WEBP_CHUNKS):
        file.seek(at)
        chunk = file.read(8)
        if at >= end or len(chunk) < 8:
            break
        length = int.from_bytes(chunk[4:], "little")
        stated = _webp_size(chunk[:4], file.read(16))
        frames += chunk[:4] == b"ANMF"
        size = max(size[0], stated[0]), max(size[1], stated[1])
        at += 8 + length + length % 2  # RIFF pads each chunk to an even length
    else:
        raise BadFile(f"more than {MAX_WEBP_CHUNKS} chunks in a WebP")
    if not all(size) or at > end + 1:
        raise BadFile("cannot be read as WebP: it has no size, or ends within a chunk")
    return *size, max(1, frames)


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int]:
    """Return the size that a chunk declares, or (0, 0)."""
    match kind:
        case b"VP8X":
            return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
        case b"ANMF":
            return int.from_bytes(body[6:9], "little") + 1, int.from_bytes(body[9:12], "little") + 1
        case b"VP8 ":
            return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
        case b"VP8L":
            bits = int.from_bytes(body[1:5], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return 0, 0


def has_light_header(file: BinaryIO, kind: str) -> bool:
    """Whether Pillow reads the size of a `PNG`, `JPEG` or `BMP` cheaply. False for an unusual or broken file too."""
    match kind:
        case "PNG":
            return _has_few_chunks(file)
        case "JPEG":
            return _has_few_segments(file)
        case "BMP":
            return _has_known_header(file)
    return False


def _has_few_chunks(file: BinaryIO) -> bool:
    file.seek(8)
    kept = compressed = 0
    for _ in range(MAX_PNG_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return True
        length = int.from_bytes(head[:4])
        if head[4:] not in _PIXELS:
            kept += length
        compressed += head[4:] in _COMPRESSED
        if length > MAX_PNG_CHUNK or kept > MAX_PNG_CHUNK or compressed > MAX_COMPRESSED_CHUNKS:
            return False
        file.seek(length + 4, 1)
    return False


def _has_known_header(file: BinaryIO) -> bool:
    """Whether a BMP has a header of a size that exists. Pillow reads as many bytes as the file says."""
    file.seek(14)
    return int.from_bytes(file.read(4), "little") in _BMP_HEADERS


def _has_few_segments(file: BinaryIO) -> bool:
    """Whether a JPEG has few segments of listed kinds, without bytes between them, up to its image data."""
    at, tables, counted = 2, 0, Counter[str | None]()
    for _ in range(MAX_JPEG_SEGMENTS):
        file.seek(at)
        mark, length = file.read(2), int.from_bytes(file.read(2))
        if mark == b"\xff\xda":
            return True
        kind = _jpeg_kind(mark, file.read(6))
        counted[kind] += 1
        tables += length if kind == _TABLES else 0
        at += 2 + length
        # Pillow would skip bytes between segments one by one.
        if length < 2 or at > MAX_JPEG_HEADER or tables > MAX_JPEG_TABLES or counted[kind] > _MOST_OF_KIND.get(kind, 0):
            return False
        if kind == _FRAME and length > MAX_JPEG_FRAME:
            return False
    return False


def _jpeg_kind(mark: bytes, head: bytes) -> str | None:
    """Return the kind of a segment, whose number is limited; None for one that no ordinary photo has."""
    match mark:
        case b"\xff\xc0" | b"\xff\xc1" | b"\xff\xc2":  # baseline, extended and progressive
            return _FRAME
        case b"\xff\xdb":
            return _TABLES
        case b"\xff\xe1" if head == b"Exif\0\0":
            return _EXIF
        case b"\xff\xe2" if head[:4] == b"MPF\0":  # the pages of an MPO, which are counted elsewhere
            return None
        case b"\xff\xed":
            return _RESOURCES
        case b"\xff\xc4" | b"\xff\xdd" | b"\xff\xfe":  # Huffman tables, restart interval, comment
            return _PLAIN
    return _PLAIN if len(mark) == 2 and b"\xff\xe0" <= mark <= b"\xff\xef" else None
