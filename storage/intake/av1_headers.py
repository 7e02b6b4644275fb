"""Reads the sizes of AV1 frames from sequence headers, and from frame headers whether a frame states its own size.

Section numbers are those of the AV1 specification.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from storage.intake.nal_headers import Bits, Size, UnreadableHeader

FRAMES = (3, 6)
"""The types of units with a frame's header."""
_SEQUENCE, _REDUNDANT_HEADER = 1, 7
_KEY_FRAME, _SWITCH_FRAME = 0, 3
_SELECTED = 2
"""The value of a tool that each frame chooses for itself."""
_MOST_FORMS = 16


@dataclass(frozen=True, slots=True)
class Sequence:
    """What a sequence header says of the sizes of its frames, and of the form of their headers."""

    size: Size
    largest: Size
    """The size that a frame's own size is less than or equal to, by the number of its bits."""
    time_bits: int
    screen_tools: int
    integer_mv: int
    id_bits: int


def units_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and content of each unit. Raises IndexError, or `UnreadableHeader`."""
    at = 0
    while at < len(data):
        # A unit's header (5.3.2): 4 marks an extension byte, 2 a length.
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
        if not byte & 128:
            return value, at
        if shift == 56:
            raise UnreadableHeader  # a number has at most eight bytes, and decoders differ on what follows


def sequences_in(data: bytes, *, is_extradata: bool) -> Iterator[bytes]:
    # In a container the units follow the four bytes of its `av1C` box.
    return (unit for kind, unit in units_of(data[4:] if is_extradata else data) if kind == _SEQUENCE)


def read_sequence(unit: bytes) -> Sequence:
    """Read a sequence header (5.5.1). Raises IndexError, or `UnreadableHeader`."""
    bits = Bits(unit[:1_000])
    bits.read(4)
    if bits.read(1):  # reduced_still_picture_header, with which the frame headers have another form
        raise UnreadableHeader
    delay_bits = time_bits = 0
    if bits.read(1):  # timing_info_present_flag
        bits.read(64)
        is_regular = bits.read(1)  # equal_picture_interval
        if is_regular:
            bits.golomb()
        if bits.read(1):  # decoder_model_info_present_flag
            delay_bits = bits.read(5) + 1
            bits.read(32 + 5)
            time_bits = bits.read(5) + 1
            time_bits = 0 if is_regular else time_bits
    _skip_operating_points(bits, delay_bits)
    across, down = bits.read(4) + 1, bits.read(4) + 1
    width, height = bits.read(across) + 1, bits.read(down) + 1
    # A frame may state its own size in so many bits, and decoders take one above the sequence's. Encoders use no more
    # bits than the sequence's size needs, so that a frame grows to less than twice its sides.
    if across > max(1, (width - 1).bit_length()) or down > max(1, (height - 1).bit_length()):
        raise UnreadableHeader
    id_bits = bits.read(4) + bits.read(3) + 3 if bits.read(1) else 0
    bits.read(3 + 4)
    if bits.read(1):  # enable_order_hint
        bits.read(2)
    screen_tools = _SELECTED if bits.read(1) else bits.read(1)
    integer_mv = _SELECTED
    if screen_tools and not bits.read(1):
        integer_mv = bits.read(1)
    return Sequence((width, height), (1 << across, 1 << down), time_bits, screen_tools, integer_mv, id_bits)


def _skip_operating_points(bits: Bits, delay_bits: int) -> None:
    has_delays = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:  # the levels above 7 have a tier
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if has_delays and bits.read(1):
            bits.read(4)


def states_its_size(unit: bytes, sequence: Sequence) -> bool:
    """Whether a frame's header (5.9.2) has another size than its sequence: frame_size_override_flag."""
    bits = Bits(unit[:100])
    if bits.read(1):  # show_existing_frame
        return False
    frame_type, is_shown = bits.read(2), bits.read(1)
    bits.read(sequence.time_bits if is_shown else 1)
    if frame_type != _SWITCH_FRAME and not (frame_type == _KEY_FRAME and is_shown):
        bits.read(1)  # error_resilient_mode
    bits.read(1)
    has_screen_tools = bits.read(1) if sequence.screen_tools == _SELECTED else sequence.screen_tools
    if has_screen_tools and sequence.integer_mv == _SELECTED:
        bits.read(1)
    bits.read(sequence.id_bits)
    return frame_type == _SWITCH_FRAME or bool(bits.read(1))


class Av1Frames:
    """The frames of one stream that state their own size, read by every form that its sequence headers have had."""

    def __init__(self) -> None:
        self._forms: set[Sequence] = set()

    def learn(self, data: bytes, *, is_extradata: bool = False) -> None:
        """Note the sequence headers. Raises `UnreadableHeader`."""
        try:
            self._forms |= {read_sequence(unit) for unit in sequences_in(data, is_extradata=is_extradata)}
        except IndexError:
            raise UnreadableHeader from None
        if len(self._forms) > _MOST_FORMS:
            raise UnreadableHeader

    def sizes_in(self, data: bytes) -> list[Size]:
        """Return the largest size that a packet's frames may state. Raises `UnreadableHeader`."""
        self.learn(data)
        try:
            headers = [unit for kind, unit in units_of(data) if kind in (*FRAMES, _REDUNDANT_HEADER)]
            return [sequence.largest for sequence in self._forms for unit in headers if states_its_size(unit, sequence)]
        except IndexError:
            raise UnreadableHeader from None
