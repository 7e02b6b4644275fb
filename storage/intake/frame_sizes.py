"""The sizes of a video's frames, read from the frame and sequence headers in its packets.

A container declares one size, but a decoder uses the size of each frame: 52 KB whose first frames have 16 by 16 pixels
can become gigabytes. The headers of common codecs are read; for other codecs, and for a video with a header that cannot
be read, each packet is decoded, for which a long video exceeds the time limit. Sizes that are read are in whole blocks,
so slightly larger than the displayed ones.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from storage.intake.av1_headers import FRAMES, Av1Frames, read_sequence, sequences_in, units_of
from storage.intake.nal_headers import START_CODE, Bits, Size, UnreadableHeader, h264, hevc, is_avcc, sizes_in

_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xfe]")
_JPEG_TABLES, _JPEG_COMMENTS = 0xDB, frozenset({*range(0xE0, 0xF0), 0xFE})
_JPEG_FRAMES = (frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}
"""The last one is that of JPEG-LS, which FFmpeg decodes in an MJPEG stream as well."""
_VP9_RGB = 7


def _av1(data: bytes, extradata: bytes) -> Iterator[Size]:
    return sizes_in(sequences_in(data, is_extradata=data is extradata), lambda unit: read_sequence(unit).size)


def frames_in(codec: str, data: bytes) -> int:
    """Return how many frames a decoder may output for one packet."""
    if codec.endswith("vp9"):
        return len(_lengths_of_vp9(data))
    if "av1" not in codec:
        return 1
    found = 0
    try:
        # A frame header begins with show_existing_frame, else two bits of frame_type and show_frame.
        for kind, unit in units_of(data):
            found += kind in FRAMES and bool(unit[:1]) and bool(unit[0] & 0b1001_0000)
    except IndexError:
        raise UnreadableHeader from None
    return max(1, found)


def _vp8(data: bytes, _: bytes) -> Iterator[Size]:
    # Only a key frame has a size (RFC 6386, 9.1). Its upper two bits are a scale.
    if data[3:6] == b"\x9d\1\x2a" and not data[0] & 1:
        yield int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF


def _vp9(data: bytes, extradata: bytes) -> Iterator[Size]:
    return sizes_in(() if data is extradata else _heads_of_vp9(data), _size_of_vp9)


def _heads_of_vp9(data: bytes) -> Iterator[bytes]:
    at = 0
    for length in _lengths_of_vp9(data):
        yield data[at : at + min(length, 100)]
        at += length


def _lengths_of_vp9(data: bytes) -> list[int]:
    """Return the lengths of the frames in a packet: several, followed by an index, or one."""
    # VP9, annex B: the last byte describes the index and also precedes it.
    last = data[-1]
    count, width = (last & 7) + 1, (last >> 3 & 3) + 1
    index = data[-2 - count * width :]
    if last & 0xE0 != 0xC0 or index[0] != last:
        return [len(data)]
    return [int.from_bytes(index[at : at + width], "little") for at in range(1, 1 + count * width, width)]


def _size_of_vp9(head: bytes) -> Size | None:
    """Return the frame's size; None if it takes the size of an earlier frame."""
    # The uncompressed header, VP9, 6.2: everything before the size is skipped.
    bits = Bits(head)
    bits.read(2)
    profile = bits.read(1) + 2 * bits.read(1)
    bits.read(profile == 3)
    if bits.read(1):  # show_existing_frame
        return None
    is_inter, is_shown, is_resilient = bits.read(1), bits.read(1), bits.read(1)
    if not is_inter:
        bits.read(24)  # the sync code
        _skip_vp9_colours(bits, profile)
    else:
        is_intra = 0 if is_shown else bits.read(1)
        bits.read(0 if is_resilient else 2)
        if not is_intra:
            bits.read(8 + 3 * 4)
            if bits.read(1) or bits.read(1) or bits.read(1):  # found_ref of each of the three references
                return None
        else:
            bits.read(24)
            if profile:  # profile 0 has its colours by definition
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
        at = _behind_jpeg_segment(data, at, mark)


def _behind_jpeg_segment(data: bytes, at: int, mark: int) -> int:
    """Return where FFmpeg searches for the next marker: after comments that fit and tables, else in the segment."""
    length = int.from_bytes(data[at : at + 2])
    end = at + length
    if end + 2 > len(data) or length < 2:
        return at
    if mark in _JPEG_COMMENTS:
        return end
    if mark == _JPEG_TABLES:
        at += 2
        # A table is a byte with its precision and number, and 64 values of one or two bytes.
        while end - at > 64:
            at += 1 + (128 if data[at] >> 4 else 64)
    return at


def _png(data: bytes, _: bytes) -> Iterator[Size]:
    # The chunk with the size should come first, and FFmpeg takes it wherever it comes.
    at = 8
    while at + 16 <= len(data):
        if data[at + 4 : at + 8] == b"IHDR":
            yield int.from_bytes(data[at + 8 : at + 12]), int.from_bytes(data[at + 12 : at + 16])
        at += 12 + int.from_bytes(data[at : at + 4])


def _prores(data: bytes, _: bytes) -> Iterator[Size]:
    if data[4:8] == b"icpf":
        yield int.from_bytes(data[16:18]), int.from_bytes(data[18:20])


def _mpeg(data: bytes, _: bytes) -> Iterator[Size]:
    """MPEG-1 and MPEG-2: a sequence's header, and two more bits for each side in its extension."""
    across = down = 0xFFF  # the extension may add to a header of an earlier packet
    for unit in data.split(START_CODE)[1:]:
        if unit[:1] == b"\xb3":
            across, down = int.from_bytes(unit[1:3]) >> 4, int.from_bytes(unit[2:4]) & 0xFFF
            yield across, down
        elif unit[:1] == b"\xb5":
            more = Bits(unit[1:4])
            if more.read(4) != 1:  # another extension than that of a sequence
                continue
            more.read(11)
            across, down = across | more.read(2) << 12, down | more.read(2) << 12
            yield across, down


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
"""The readers by FFmpeg's name of the decoder."""
_SIZE_IN_EACH_PACKET = ("mjpeg", "png", "prores")
"""Codecs whose packets are whole pictures, each with its size."""


class FrameSizes:
    """The sizes of one PyAV stream. `largest` is the largest so far. Raises `UnreadableHeader`, except with `decoding`.

    `decoding` decodes every packet, whatever the codec. It is used from a stream's start, since a decoder needs all of
    the headers before a packet.
    """

    def __init__(self, stream: Any, *, decoding: bool = False) -> None:
        self.largest: Size = (stream.width, stream.height)
        self._context = stream.codec_context
        self._read = None if decoding else READERS.get(self._context.name)
        self._framings: dict[tuple[bytes, bytes], bytes] = {}
        self._av1 = Av1Frames() if self._read is _av1 else None
        self._learn(bytes(self._context.extradata or b""))

    def of(self, packet: Any) -> list[Size]:
        """Return the sizes of a packet's frames, each at least the size that the container declares."""
        if self._read is None:
            return self._decoded(packet)
        if not packet.size:
            return []
        if packet.has_sidedata("new_extradata"):
            self._learn(bytes(packet.get_sidedata("new_extradata")))
        data = bytes(packet)
        if self._read is h264 and is_avcc(data):
            self._learn(data)
        for extradata in self._framings.values():
            self._note(self._stated(data, extradata))
        if self._av1 is not None:
            self._note(self._av1.sizes_in(data))
        return [self.largest] * frames_in(self._context.name, data)

    def _learn(self, extradata: bytes) -> None:
        """Read the following packets by these headers as well."""
        # As well and not only, because a decoder may take them or not. How a packet is read depends on the form, and on
        # the size of the lengths in byte 4 of an `avcC` or byte 21 of an `hvcC`.
        self._framings[extradata[:1], bytes(byte & 3 for byte in extradata[4:22:17])] = extradata
        if self._av1 is not None:
            self._av1.learn(extradata, is_extradata=True)
        self._note(self._stated(extradata, extradata))

    def _stated(self, data: bytes, extradata: bytes) -> list[Size]:
        if self._read is None:
            return []
        try:
            found = list(self._read(data, extradata))
        except IndexError:
            raise UnreadableHeader from None
        if not found and self._context.name in _SIZE_IN_EACH_PACKET and data is not extradata:
            raise UnreadableHeader
        return found

    def _decoded(self, packet: Any) -> list[Size]:
        from av import FFmpegError

        try:
            sizes = [(frame.width, frame.height) for frame in self._context.decode(packet)]
        except MemoryError:  # PyAV's is an FFmpegError as well
            raise
        except (FFmpegError, ValueError):
            sizes = [self.largest] if packet.size else []
        # The decoder has read this size also where the frame itself failed.
        self._note([*sizes, (self._context.width, self._context.height)])
        return sizes

    def _note(self, sizes: list[Size]) -> None:
        self.largest = max([self.largest, *sizes], key=lambda size: size[0] * size[1])
