"""The sizes of a video's frames, read from the headers in its packets.

A container declares one size, but a decoder uses the size of each frame: 52 KB whose first frames have 16 by 16 pixels
can become gigabytes. The headers of common codecs are read; for other codecs each packet is decoded, for which a long
video exceeds the time limit. Sizes are in whole blocks, so slightly larger than the displayed ones.
"""

import contextlib
from typing import Any

from storage.intake.frame_headers import READERS, frames_in
from storage.intake.nal_headers import Size, h264, is_avcc


class FrameSizes:
    """The sizes of one PyAV stream. `largest` is the largest so far. Unreadable packets raise nothing."""

    def __init__(self, stream: Any) -> None:
        self.largest: Size = (stream.width, stream.height)
        self._context = stream.codec_context
        self._read = READERS.get(self._context.name)
        self._framings: dict[tuple[bytes, bytes], bytes] = {}
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
        return [self.largest] * frames_in(self._context.name, data)

    def _learn(self, extradata: bytes) -> None:
        """A decoder may take it or not, so packets are read in each way that was said."""
        self._framings[extradata[:1], bytes(byte & 3 for byte in extradata[4:22:17])] = extradata
        self._note(self._stated(extradata, extradata))

    def _stated(self, data: bytes, extradata: bytes) -> list[Size]:
        if self._read is None:
            return []
        found: list[Size] = []
        with contextlib.suppress(IndexError):
            found.extend(self._read(data, extradata))
        return found

    def _decoded(self, packet: Any) -> list[Size]:
        from av import FFmpegError

        try:
            sizes = [(frame.width, frame.height) for frame in self._context.decode(packet)]
        except (FFmpegError, ValueError):
            return [self.largest] if packet.size else []
        self._note(sizes)
        return sizes

    def _note(self, sizes: list[Size]) -> None:
        self.largest = max([self.largest, *sizes], key=lambda size: size[0] * size[1])
