"""Measures the decoded size of an image, video or sound: `python -m storage.intake.probe FILE TYPE LIMITS`.

It runs in a separate process with little memory and time, because native decoders have had exploitable faults. No other
file or address is opened, so a playlist cannot make it read one. It counts the actual content, not the values of a
header, and stops when a limit is exceeded. Only sounds and videos in uncommon codecs are decoded.

Prints {"extents": […]}, one for each way in which the file can be read, or {"refused": "what is wrong"}.
"""

import json
import logging
import re
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

from storage.formats import PICTURES, PILLOW, PILLOW_LOOKALIKES, STREAM_OPTIONS, STREAMS
from storage.intake.frame_sizes import FrameSizes
from storage.intake.nal_headers import UnreadableHeader
from storage.intake.walkers import BadFile, gif_extent, webp_extent

MEMORY_BYTES = 512 * 1024**2
"""Maximum address space of an examination. Python with Pillow takes 40 MB, PyAV 130 MB."""
HEADROOM_BYTES = 256 * 1024**2
"""How much more the process may take until an allocation fails. FFmpeg skips what it has no memory for, such as a
packed block of a Matroska file, without an error. With this room it fails only after the maximum has been exceeded,
which is seen afterwards, or at a single allocation of this size."""
MAX_MAPPED = 256 * 1024**2
"""Maximum size of a mapped file, since Pillow reads an AVIF as a whole."""
CPU_S = 15
FIRST_LOOK = {"probesize": "5000000", "analyzeduration": "5000000"}
"""How much FFmpeg reads to detect a stream, in bytes and in microseconds."""
LEAST_FRAME_PIXELS = 64 * 64
"""Minimum pixels that a frame of several counts for: ComfyUI makes such a mask for a frame without transparency."""
_WALKERS = {"image/gif": gif_extent, "image/webp": webp_extent}
_PEAK = re.compile(rb"VmPeak:\s+(\d+) kB")
_TOO_MUCH_MEMORY = f"it takes more than {MEMORY_BYTES // 1024**2} MiB of memory to be examined"
_VARYING = ("TIFF", "MPO")
"""Pillow's formats whose frames differ in size."""


def walked_extent(path: str, content_type: str) -> dict[str, Any]:
    with Path(path).open("rb") as file:
        width, height, frames = _WALKERS[content_type](file)
    pixels = width * height if frames == 1 else counted(width, height) * frames
    return {"width": width, "height": height, "frames": frames, "pixels": pixels}


def counted(width: int, height: int) -> int:
    """Return the pixels that one of several frames counts for."""
    return max(width * height, LEAST_FRAME_PIXELS)


def picture_extent(path: str, content_type: str, limits: dict[str, Any]) -> dict[str, Any] | None:
    """Return the extent by Pillow, None for an unknown file. Frames are counted with their sizes, up to the limits."""
    from PIL import Image, UnidentifiedImageError

    # The caller's limits apply, not Pillow's.
    Image.MAX_IMAGE_PIXELS = None
    # libwebp's canvases exceed the memory limit here, so `webp_extent` measures such files.
    formats = [name for name in (*PILLOW, *PILLOW_LOOKALIKES) if name != "WEBP"]
    try:
        picture = Image.open(path, formats=formats)
    except UnidentifiedImageError:
        return None
    with picture:
        if content_type in PICTURES and picture.format not in PICTURES[content_type]:
            raise BadFile(f"some readers take this {content_type} for {picture.format}")
        width, height = picture.size
        frames = _equal_frames(picture)
        total = counted(width, height) * frames
        while picture.format in _VARYING and total <= limits["max_animation_pixels"] and frames <= limits["max_frames"]:
            try:
                picture.seek(picture.tell() + 1)
            except EOFError:
                break
            frames += 1
            total += counted(*picture.size)
            width, height = max((width, height), picture.size, key=lambda size: size[0] * size[1])
        if picture.format == "PNG":
            picture.verify()
        pixels = width * height if frames == 1 else total
        return {"width": width, "height": height, "frames": frames, "pixels": pixels}


def _equal_frames(picture: Any) -> int:
    return 1 if picture.format in _VARYING else getattr(picture, "n_frames", 1)


def stream_extent(path: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Return the extent by FFmpeg. Errors of PyAV are passed on.

    FFmpeg detects the format itself, as in an engine, and must detect a listed one. Headers cannot be trusted, so
    packets are counted.
    """
    try:
        return _stream_extent(path, limits)
    except UnreadableHeader:
        return _stream_extent(path, limits, decoding=True)


def _stream_extent(path: str, limits: dict[str, Any], *, decoding: bool = False) -> dict[str, Any]:
    import av

    with av.open(path, options={**STREAM_OPTIONS, **FIRST_LOOK}) as container:
        videos = {stream.index: FrameSizes(stream, decoding=decoding) for stream in container.streams.video}
        sounds = {stream.index: Samples(stream) for stream in container.streams.audio}
        seconds, spans = float(container.duration or 0) / av.time_base, dict[int, _Span]()
        frames = pixels = samples = 0
        unread = {stream.index for stream in (*container.streams.video, *container.streams.audio) if stream.frames}
        for packet in container.demux(*container.streams.video, *container.streams.audio):
            if packet.stream_index in videos:
                sizes = videos[packet.stream_index].of(packet)
                frames += len(sizes)
                pixels += sum(counted(*size) for size in sizes)
            if not packet.size:
                continue
            unread.discard(packet.stream_index)
            if packet.stream_index in sounds:
                samples += sounds[packet.stream_index].of(packet)
            seconds = max(seconds, spans.setdefault(packet.stream_index, _Span()).add(packet))
            if pixels > limits["max_video_pixels"] or seconds > limits["max_media_s"]:
                break
            if samples > limits["max_samples"]:
                break
        else:
            # FFmpeg drops an index for which it gets no memory without an error, and a loader may have more.
            if unread:
                raise BadFile("the index of one of its streams cannot be read")
        found = {"duration_s": seconds, "samples": samples}
        if not videos:
            return found
        width, height = max((sizes.largest for sizes in videos.values()), key=lambda size: size[0] * size[1])
        return {"width": width, "height": height, "frames": max(1, frames), "pixels": pixels, **found}


class _Span:
    """The duration of a stream, by the times of its packets and by the sum of their durations."""

    def __init__(self) -> None:
        self._start: int | None = None
        self._sum = 0.0

    def add(self, packet: Any) -> float:
        """Add a packet and return the seconds so far."""
        second = float(packet.time_base)
        length = packet.duration or 0
        self._sum += length
        moment = packet.dts if packet.pts is None else packet.pts
        if moment is None:
            return self._sum * second
        self._start = moment if self._start is None else min(self._start, moment)
        return float(max(self._sum, moment - self._start + length) * second)


_OPUS_FRAME = {**dict.fromkeys(range(12), (480, 960, 1920, 2880)), **dict.fromkeys(range(12, 16), (480, 960))}
"""Samples per frame at 48 kHz by a packet's mode (RFC 6716, table 2); the other modes have 120 to 960."""
_MOST_OF_OPUS = 5760
MOST_CHANNELS = 7
"""Channels of a sound. PyAV 18 reads beyond the planes of a frame of 8, which ends an engine that loads the sound."""
_BITS = re.compile(r"pcm_[a-z]+?(\d+)")


class Samples:
    """Counts the samples of one PyAV stream's packets, each of which a loader holds as four bytes per channel.

    Neither a file's duration nor its size shows the number: silence of 8 channels at 655,350 Hz takes 500 bytes per
    second as FLAC and 21 MB as samples. A packet does not either: it may contain many of a codec's frames, whatever
    duration its container declares. So sounds are decoded unless their packets show it; an hour takes two or three
    seconds.
    """

    def __init__(self, stream: Any) -> None:
        self._context = stream.codec_context
        self._name = self._context.name
        self._rate = max(1, self._context.sample_rate or 0)

    def of(self, packet: Any) -> int:
        """Return a packet's samples of all channels, at least as many as the container declares."""
        channels = _checked(max(1, self._context.channels))
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
            return sum(frame.samples * _checked(frame.layout.nb_channels) for frame in self._context.decode(packet))
        except MemoryError:  # PyAV's is an FFmpegError as well
            raise
        except FFmpegError:  # a loader stops here, or skips the packet
            return 0


def _checked(channels: int) -> int:
    if channels > MOST_CHANNELS:
        raise BadFile(f"a sound of {channels} channels, at most {MOST_CHANNELS} are allowed")
    return channels


def opus_samples(head: bytes) -> int:
    """Return a packet's samples at 48 kHz by its first bytes (RFC 6716, 3.1 and 3.2)."""
    if not head:
        return 0
    mode, count = head[0] >> 3, head[0] & 3
    lengths = _OPUS_FRAME.get(mode, (120, 240, 480, 960))
    frames = (1, 2, 2, head[1] & 63 if len(head) > 1 else 48)[count]
    return min(_MOST_OF_OPUS, frames * lengths[mode % len(lengths)])


def extents(path: str, content_type: str, limits: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one extent for each way in which the file can be read."""
    found = []
    if content_type in _WALKERS:
        walked = walked_extent(path, content_type)
        found.append(walked)
        if walked["pixels"] > limits["max_animation_pixels"] or walked["frames"] > limits["max_frames"]:
            return found  # Pillow would take seconds to count a file that is refused anyway
    if content_type in STREAMS:
        found.append(stream_extent(path, limits))
    elif content_type not in PICTURES:
        found += _hidden_stream(path, limits)
    picture = picture_extent(path, content_type, limits)
    if picture is not None:
        found.append(picture)
    elif content_type in PICTURES and content_type not in _WALKERS:
        raise BadFile(f"cannot be read as {content_type}")
    return found


def _hidden_stream(path: str, limits: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the extents of streams that FFmpeg detects in a data file, whose first bytes it does not recognise."""
    from av import FFmpegError

    try:
        return [stream_extent(path, limits)]
    except MemoryError:  # PyAV's is an FFmpegError as well
        raise
    except (FFmpegError, ValueError):
        return []


def answer(path: str, content_type: str, limits: dict[str, Any]) -> dict[str, Any]:
    try:
        found = extents(path, content_type, limits)
        return {"refused": _TOO_MUCH_MEMORY} if has_taken_too_much() else {"extents": found}
    except BadFile as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": _TOO_MUCH_MEMORY}
    except Exception:  # parsers raise arbitrary errors on untrusted files, and their messages may contain the path
        return {"refused": f"cannot be read as {content_type}"}


def has_taken_too_much() -> bool:
    """Whether the address space has exceeded its maximum at some time, so that an allocation may have failed."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    try:
        peak = _PEAK.search(Path("/proc/self/status").read_bytes())
    except OSError:  # another system than Linux
        return False
    return limit != resource.RLIM_INFINITY and peak is not None and int(peak[1]) * 1024 > limit - HEADROOM_BYTES


def limit_itself(path: str, memory_bytes: int) -> None:
    """Limit the memory and CPU time of this process, which opens an untrusted file, and silence its decoders."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    memory = memory_bytes + min(Path(path).stat().st_size, MAX_MAPPED)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # The soft limit sends SIGXCPU, which identifies the cause; the hard one SIGKILL, as does a lack of memory.
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))


def main() -> None:
    path, content_type, limits = sys.argv[1:]
    limit_itself(path, MEMORY_BYTES + HEADROOM_BYTES)
    sys.stdout.write(json.dumps(answer(path, content_type, json.loads(limits))))


if __name__ == "__main__":
    main()
