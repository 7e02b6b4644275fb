"""Counts the samples of a sound, each of which a loader holds as four bytes per channel.

Neither a file's duration nor its size shows the number: silence of 8 channels at 655,350 Hz takes 500 bytes per second
as FLAC and 21 MB as samples. A packet does not either: it may contain many of a codec's frames, whatever duration its
container declares. So sounds are decoded unless their packets show it; an hour takes two or three seconds.
"""

import re
from typing import Any

_OPUS_FRAME = {**dict.fromkeys(range(12), (480, 960, 1920, 2880)), **dict.fromkeys(range(12, 16), (480, 960))}
"""Samples per frame at 48 kHz by a packet's mode (RFC 6716, table 2); the other modes have 120 to 960."""
_MOST_OF_OPUS = 5760
_BITS = re.compile(r"pcm_[a-z]+?(\d+)")


class Samples:
    """Counts the samples of one PyAV stream's packets."""

    def __init__(self, stream: Any) -> None:
        self._context = stream.codec_context
        self._name = self._context.name
        self._rate = max(1, self._context.sample_rate or 0)

    def of(self, packet: Any) -> int:
        """Return a packet's samples of all channels, at least as many as the container declares."""
        channels = max(1, self._context.channels)
        by_time = round((packet.duration or 0) * float(packet.time_base) * self._rate)
        return int(max(by_time * channels, self._by_content(packet, channels)))

    def _by_content(self, packet: Any, channels: int) -> int:
        if self._name.startswith("pcm_"):
            bits = _BITS.match(self._name)
            return int(packet.size * 8 // (int(bits[1]) if bits else 8))
        if self._name in ("opus", "libopus"):
            return opus_samples(bytes(packet)[:2]) * channels
        from av import FFmpegError

        try:
            return sum(frame.samples * frame.layout.nb_channels for frame in self._context.decode(packet))
        except FFmpegError:  # a loader stops here, or skips the packet
            return 0


def opus_samples(head: bytes) -> int:
    """Return a packet's samples at 48 kHz by its first bytes (RFC 6716, 3.1 and 3.2)."""
    if not head:
        return 0
    mode, count = head[0] >> 3, head[0] & 3
    lengths = _OPUS_FRAME.get(mode, (120, 240, 480, 960))
    frames = (1, 2, 2, head[1] & 63 if len(head) > 1 else 48)[count]
    return min(_MOST_OF_OPUS, frames * lengths[mode % len(lengths)])
