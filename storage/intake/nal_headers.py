"""The frame sizes of H.264 and HEVC, by the parameter sets in their NAL units.

Units are found as in FFmpeg, which accepts much that no encoder writes, so that a file cannot hide a unit from these
readers.
"""

from collections.abc import Callable, Iterable, Iterator

Size = tuple[int, int]
START_CODE = b"\0\0\1"
_WITH_CHROMA = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
"""H.264's profiles whose parameter sets include the chroma format (ITU-T H.264, 7.3.2.1.1)."""


MAX_GOLOMB_ZEROS = 31
PADDING = bytes(64)
"""The zeros that FFmpeg reads beyond the end of a header that is too short."""
MAX_HEADER_BYTES = 8_000
"""A parameter set with the longest lists that it may have takes less."""
MAX_TRAILING_BYTES = 3
"""Behind the units of a packet: too few for another unit, and left out."""


class Bits:
    """Reads the bits of a header and the zeros that follow it. Raises IndexError beyond these."""

    def __init__(self, data: bytes) -> None:
        data += PADDING
        self._value, self._left = int.from_bytes(data), 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError("the header ends")
        return (self._value >> self._left) & ((1 << count) - 1)

    def golomb(self) -> int:
        """Read an Exp-Golomb number (ITU-T H.264, 9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            # The standards have 32 bits at most, and decoders differ on longer numbers.
            if zeros > MAX_GOLOMB_ZEROS:
                raise UnreadableHeader
        return (1 << zeros) - 1 + self.read(zeros)

    def signed_golomb(self) -> int:
        number = self.golomb()
        return (number + 1) // 2 if number % 2 else -number // 2


class UnreadableHeader(Exception):
    """A header that cannot be read here, or in two ways. A decoder may take a size from it all the same."""


def sizes_in(units: Iterable[bytes], size_of: Callable[[bytes], Size | None]) -> Iterator[Size]:
    """Yield the sizes in the units. Raises `UnreadableHeader`."""
    for unit in units:
        try:
            size = size_of(unit)
        except IndexError:
            raise UnreadableHeader from None
        if size is not None and not all(size):
            raise UnreadableHeader
        if size is not None:
            yield size


def _units(data: bytes, length_size: int) -> list[bytes]:
    """The NAL units of a packet: each behind its length, or behind a start code. A start code ends a unit also where
    its length goes on."""
    found, at = list[bytes](), 0
    while length_size and at + length_size <= len(data):
        length = int.from_bytes(data[at : at + length_size])
        found += data[at + length_size : at + length_size + length].split(START_CODE)
        at += length_size + length
    is_whole = length_size and 0 <= len(data) - at <= MAX_TRAILING_BYTES
    return found if is_whole else data.split(START_CODE)[1:]


def _content(unit: bytes) -> Bits:
    # Without the bytes that keep start codes out of a unit (ITU-T H.264, 7.4.1).
    return Bits(unit[:MAX_HEADER_BYTES].replace(b"\0\0\3", b"\0\0"))


def is_avcc(data: bytes) -> bool:
    """Whether a packet of H.264 is no frame but the parameter sets, as a file's header has them."""
    return len(data) > 8 and data[0] == 1 and data[2] == 0 and data[4] & 0xFC == 0xFC


def h264(data: bytes, extradata: bytes) -> Iterator[Size]:
    has_lengths = extradata[:1] == b"\1"
    if data is extradata and has_lengths:
        units, at = [], 6
        for _ in range(data[5] & 31):
            length = int.from_bytes(data[at : at + 2])
            units.append(data[at + 2 : at + 2 + length])
            at += 2 + length
    else:
        units = _units(data, (extradata[4] & 3) + 1 if has_lengths else 0)
    return sizes_in(units, _size_of_h264)


def _size_of_h264(unit: bytes) -> Size | None:
    if unit[0] & 31 not in (7, 15):
        return None
    size = _size_in_h264(_content(unit[1:]))
    # Where FFmpeg cannot read a set, it reads it again with the bytes that keep start codes out of a unit.
    if _size_in_h264(Bits(unit[1:MAX_HEADER_BYTES])) != size:
        raise UnreadableHeader
    return size


def _size_in_h264(bits: Bits) -> Size:
    # The sequence parameter set, ITU-T H.264, 7.3.2.1.1: everything before the size is skipped.
    profile = bits.read(24) >> 16
    bits.golomb()  # the set's number
    if profile in _WITH_CHROMA:
        if (chroma := bits.golomb()) == 3:
            bits.read(1)
        bits.golomb()  # the depths of luma and chroma
        bits.golomb()
        bits.read(1)
        if bits.read(1):  # seq_scaling_matrix_present_flag
            for number in range(12 if chroma == 3 else 8):
                _skip_scaling_list(bits, 16 if number < 6 else 64)
    bits.golomb()
    order = bits.golomb()  # pic_order_cnt_type
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.read(1)
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()
    bits.read(1)
    across, down = bits.golomb() + 1, bits.golomb() + 1
    return 16 * across, 16 * down * (2 - bits.read(1))  # without frame_mbs_only_flag the height is that of a field


def _skip_scaling_list(bits: Bits, length: int) -> None:
    if bits.read(1):
        last = following = 8
        for _ in range(length):
            if following:
                following = (last + bits.signed_golomb()) % 256
            last = following or last


def hevc(data: bytes, extradata: bytes) -> Iterator[Size]:
    has_lengths = len(extradata) > 22 and extradata[:3] != START_CODE and extradata[:4] != b"\0" + START_CODE
    if data is extradata and has_lengths:
        units, at = [], 23
        for _ in range(data[22]):
            count = int.from_bytes(data[at + 1 : at + 3])
            at += 3
            for _ in range(count):
                length = int.from_bytes(data[at : at + 2])
                units.append(data[at + 2 : at + 2 + length])
                at += 2 + length
    else:
        units = _units(data, (extradata[21] & 3) + 1 if has_lengths else 0)
    return sizes_in(units, _size_of_hevc)


def _size_of_hevc(unit: bytes) -> Size | None:
    if unit[0] >> 1 & 63 != 33:
        return None
    # The sequence parameter set, ITU-T H.265, 7.3.2.2.1: everything before the size is skipped.
    bits = _content(unit[2:])
    bits.read(4)
    layers = bits.read(3)
    bits.read(1 + 88 + 8)  # the profile and level of the whole, and behind them those of each layer
    present = [(bits.read(1), bits.read(1)) for _ in range(layers)]
    if layers:
        bits.read(2 * (8 - layers))
    for has_profile, has_level in present:
        bits.read(88 * has_profile + 8 * has_level)
    bits.golomb()
    if bits.golomb() == 3:  # chroma_format_idc, behind which separate_colour_plane_flag follows
        bits.read(1)
    return bits.golomb(), bits.golomb()
