"""The frame sizes in the packets of common codecs, by the headers of frames and sequences."""

import contextlib
import re
from collections.abc import Callable, Iterator

from storage.intake.nal_headers import START_CODE, Bits, Size, h264, hevc

_JPEG_MARKER = re.compile(rb"\xff[^\0\xff\xd0-\xd7]")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_VP9_SYNC, _VP9_RGB = 0x498342, 7
_AV1_SEQUENCE, _AV1_FRAMES = 1, (3, 6)


def _av1(data: bytes, extradata: bytes) -> Iterator[Size]:
    for kind, unit in _units_of_av1(data[4:] if data is extradata else data):
        if kind == _AV1_SEQUENCE:
            yield _size_of_av1(Bits(unit[:1_000]))


def _units_of_av1(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        head = data[at]
        at += 2 if head & 4 else 1
        length = len(data) - at
        if head & 2:
            length, at = _leb128(data, at)
        yield head >> 3 & 15, data[at : at + length]
        at += length


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if not byte & 128 or shift > 56:
            return value, at


def _size_of_av1(bits: Bits) -> Size:
    bits.read(4)
    if bits.read(1):
        bits.read(5)
    else:
        delay_bits = 0
        if bits.read(1):
            bits.read(64)
            if bits.read(1):
                bits.golomb()
            if bits.read(1):
                delay_bits = bits.read(5) + 1
                bits.read(32 + 5 + 5)
        has_delays = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            if bits.read(5) > 7:
                bits.read(1)
            if delay_bits and bits.read(1):
                bits.read(2 * delay_bits + 1)
            if has_delays and bits.read(1):
                bits.read(4)
    across, down = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(across) + 1, bits.read(down) + 1


def frames_in(codec: str, data: bytes) -> int:
    """How many a decoder may show of one packet."""
    if codec.endswith("vp9"):
        return len(_lengths_of_vp9(data))
    if "av1" not in codec:
        return 1
    found = 0
    with contextlib.suppress(IndexError):
        # A frame begins with a bit that shows an earlier one, else two bits of its kind and one that shows it.
        for kind, unit in _units_of_av1(data):
            found += kind in _AV1_FRAMES and bool(unit[:1]) and bool(unit[0] & 0b1001_0000)
    return max(1, found)


def _vp8(data: bytes, _: bytes) -> Iterator[Size]:
    if data[3:6] == b"\x9d\1\x2a" and not data[0] & 1:
        yield int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF


def _vp9(data: bytes, extradata: bytes) -> Iterator[Size]:
    at = 0
    for length in () if data is extradata else _lengths_of_vp9(data):
        size = _size_of_vp9(Bits(data[at : at + min(length, 100)])) if length else None
        at += length
        if size is not None:
            yield size


def _lengths_of_vp9(data: bytes) -> list[int]:
    """Of the frames in a packet: several, with an index behind them, or one."""
    last = data[-1]
    count, width = (last & 7) + 1, (last >> 3 & 3) + 1
    index = data[-2 - count * width :]
    if last & 0xE0 != 0xC0 or index[0] != last:
        return [len(data)]
    return [int.from_bytes(index[at : at + width], "little") for at in range(1, 1 + count * width, width)]


def _size_of_vp9(bits: Bits) -> Size | None:
    """None where the frame has the size of one before it."""
    bits.read(2)
    profile = bits.read(1) + 2 * bits.read(1)
    bits.read(profile == 3)
    if bits.read(1):
        return None
    is_inter, is_shown, is_resilient = bits.read(1), bits.read(1), bits.read(1)
    if not is_inter:
        bits.read(24)
        _skip_vp9_colours(bits, profile)
    else:
        is_intra = 0 if is_shown else bits.read(1)
        bits.read(0 if is_resilient else 2)
        if not is_intra:
            bits.read(8 + 3 * 4)
            if bits.read(1) or bits.read(1) or bits.read(1):
                return None
        else:
            bits.read(24)
            if profile:
                _skip_vp9_colours(bits, profile)
            bits.read(8)
    return bits.read(16) + 1, bits.read(16) + 1


def _skip_vp9_colours(bits: Bits, profile: int) -> None:
    bits.read(profile >= 2)
    if bits.read(3) != _VP9_RGB:
        bits.read(4 if profile & 1 else 1)
    else:
        bits.read(profile & 1)


def _jpeg(data: bytes, _: bytes) -> Iterator[Size]:
    at = 0
    while (found := _JPEG_MARKER.search(data, at)) is not None:
        mark, at = data[found.start() + 1], found.end()
        if mark in _JPEG_FRAMES:
            yield int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 3 : at + 5])
        if mark not in (0xD8, 0xD9, 0x01):
            at += int.from_bytes(data[at : at + 2])


def _png(data: bytes, _: bytes) -> Iterator[Size]:
    if data[12:16] == b"IHDR":
        yield int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def _prores(data: bytes, _: bytes) -> Iterator[Size]:
    if data[4:8] == b"icpf":
        yield int.from_bytes(data[16:18]), int.from_bytes(data[18:20])


def _mpeg(data: bytes, _: bytes) -> Iterator[Size]:
    """MPEG-1 and MPEG-2: a sequence's header, and two more bits for each side in its extension."""
    across = down = 0
    for unit in data.split(START_CODE)[1:]:
        if unit[:1] == b"\xb3":
            across, down = int.from_bytes(unit[1:3]) >> 4, int.from_bytes(unit[2:4]) & 0xFFF
            yield across, down
        elif unit[:1] == b"\xb5" and unit[1] >> 4 == 1:
            more = Bits(unit[1:4])
            more.read(15)
            yield across + (more.read(2) << 12), down + (more.read(2) << 12)


READERS: dict[str, Callable[[bytes, bytes], Iterator[Size]]] = {
    "h264": h264,
    "hevc": hevc,
    "av1": _av1,
    "libdav1d": _av1,
    "libaom-av1": _av1,
    "vp8": _vp8,
    "libvpx": _vp8,
    "vp9": _vp9,
    "libvpx-vp9": _vp9,
    "mjpeg": _jpeg,
    "png": _png,
    "prores": _prores,
    "mpeg1video": _mpeg,
    "mpeg2video": _mpeg,
}
"""By FFmpeg's name of a decoder."""
