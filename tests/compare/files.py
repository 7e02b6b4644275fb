"""The files that graphs name: small ones of the right type for the input folder, and empty placeholders for models.

A probe detects which inputs list which folder: a file with an unusual name in every folder that ComfyUI knows. Inputs
whose choices then contain it list that folder.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.compare.graphs import NamedGraph

_FORBIDDEN = frozenset('\\\0:*?"<>|')
"""Characters that no input file's name may contain, as on Windows."""
PROBE = "comfyui-modal-compare-probe"
INPUT = "input"
_PROBED = (".png", ".mp4", ".wav", ".latent", ".txt")
_SIDE, _FRAMES, _FPS, _RATE = 64, 24, 12, 44_100
_CONTAINERS = {".mp4": "h264", ".mov": "h264", ".mkv": "h264", ".webm": "libvpx-vp9", ".avi": "mpeg4"}
_SOUNDS = {
    ".wav": "pcm_s16le",
    ".flac": "flac",
    ".mp3": "libmp3lame",
    ".ogg": "libopus",
    ".m4a": "aac",
    ".opus": "libopus",
}
_PICTURES = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP"}
_MODEL = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"

Listing = dict[tuple[str, str], str]
"""Maps (class, input) to the folder that its choices come from: one of ComfyUI's folder names, or INPUT."""


@dataclass(frozen=True, slots=True)
class Folders:
    """`models` maps ComfyUI's folder names to paths and suffixes; `input` is the engine's input folder."""

    input: Path
    models: Mapping[str, tuple[list[str], list[str]]] = field(default_factory=dict)

    def own(self, name: str, base: Path) -> Path | None:
        """Return the first path of these models below `base`, because files are written only there."""
        inside = (Path(path) for path in self.models[name][0] if Path(path).is_relative_to(base))
        return next(inside, None)


def probes(folders: Folders, base: Path) -> Iterator[Path]:
    """Yield the files to create before object_info is requested."""
    for suffix in _PROBED:
        yield folders.input / f"{PROBE}{suffix}"
    yield folders.input / "3d" / f"{PROBE}.glb"
    for name, (_, endings) in folders.models.items():
        place = folders.own(name, base)
        if place is not None and name != "custom_nodes":
            ending = ".safetensors" if not endings or ".safetensors" in endings else endings[0]
            yield place / f"{PROBE}={name}={ending if ending.startswith('.') else ''}"


def listing(object_info: Mapping[str, Any]) -> Listing:
    found: Listing = {}
    for class_type, about in object_info.items():
        for group in ("required", "optional"):
            for name, declared in ((about.get("input") or {}).get(group) or {}).items():
                folder = _listed(declared)
                if folder is not None:
                    found[class_type, name] = folder
    return found


def _listed(declared: Any) -> str | None:
    if not isinstance(declared, list) or not declared:
        return None
    options = declared[1] if len(declared) > 1 and isinstance(declared[1], dict) else {}
    choices = declared[0] if isinstance(declared[0], list) else options.get("options")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, str) and PROBE in choice:
            parts = choice.split("=")
            return parts[1] if len(parts) > 1 else INPUT
    return INPUT if any(name.endswith("_upload") and value for name, value in options.items()) else None


def named(graph: NamedGraph, lists: Listing) -> Iterator[tuple[str, str]]:
    """Yield (folder, file name) for each file that this graph names."""
    for class_type, inputs in graph.nodes().values():
        for name, value in inputs.items():
            folder = lists.get((class_type, name))
            if folder is not None and isinstance(value, str) and value:
                yield folder, value


def input_files(graph: NamedGraph, lists: Listing) -> list[str]:
    """Return the input files that a client would send: plain relative names, without ComfyUI's suffix for the input
    folder."""
    names = (value.removesuffix(" [input]") for folder, value in named(graph, lists) if folder == INPUT)
    return sorted({name for name in names if _is_plain(name) and not name.endswith("]")})


def placeholders(graphs: Iterable[NamedGraph], lists: Listing, folders: Folders, base: Path) -> Iterator[Path]:
    """Yield an empty file for each model that a graph names."""
    for graph in graphs:
        for folder, value in named(graph, lists):
            place = folders.own(folder, base) if folder != INPUT else None
            if place is not None and _is_relative(value) and PurePosixPath(value).suffix:
                yield place / value


def _is_plain(name: str) -> bool:
    return _is_relative(name) and not _FORBIDDEN & set(name)


def _is_relative(name: str) -> bool:
    """Return whether a name is relative. A backslash is part of a file name here, as the graph writes it."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


def content(name: str) -> bytes:
    """Return a small file of the type of the suffix, or a PNG if it has none."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in _CONTAINERS:
        return _video(suffix)
    if suffix in _SOUNDS:
        return _sound(suffix)
    if suffix in (".obj", ".glb", ".gltf", ".stl", ".fbx", ".ply"):
        return _MODEL
    return _picture(_PICTURES.get(suffix, "PNG"))


def _picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_pixels(0)).save(buffer, kind)
    return buffer.getvalue()


def _pixels(shift: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE]
    return np.stack([rows * 4, (columns + shift) * 4 % 256, 255 - rows * 2], axis=-1).astype(np.uint8)


def _video(suffix: str) -> bytes:
    """Return a video with a tone, because some nodes extract its sound."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format={".mkv": "matroska"}.get(suffix, suffix[1:])) as container:
        stream = container.add_stream(_CONTAINERS[suffix], rate=_FPS)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = _SIDE
        stream.pix_fmt = "yuv420p"
        tone = _Tone(container, {".webm": "libopus", ".avi": "libmp3lame"}.get(suffix, "aac"))
        for number in range(_FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_pixels(number), format="rgb24")))
        container.mux(stream.encode())
        tone.write()
    return buffer.getvalue()


def _sound(suffix: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format={".m4a": "ipod", ".opus": "ogg"}.get(suffix, suffix[1:])) as container:
        _Tone(container, _SOUNDS[suffix]).write()
    return buffer.getvalue()


class _Tone:
    """Two seconds of 440 Hz as a stream of a file."""

    def __init__(self, container: av.container.OutputContainer, codec: str) -> None:
        self._rate = 48_000 if codec == "libopus" else _RATE
        stream = container.add_stream(codec, rate=self._rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        self._container, self._stream = container, stream

    def write(self) -> None:
        stream, rate = self._stream, self._rate
        times = np.arange(2 * rate, dtype=np.float32) / rate
        samples = (0.3 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)[None, :]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.rate = rate
        size = stream.codec_context.frame_size or 0
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=size)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            self._container.mux(stream.encode(piece))
        self._container.mux(stream.encode())
