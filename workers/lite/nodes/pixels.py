"""Images as ComfyUI passes them: float32 arrays of batch × height × width × channel, values 0 to 1."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, ImageSequence

from storage.formats import PILLOW

Pixels = npt.NDArray[np.float32]


def to_pil(frame: Any) -> Image.Image:
    """One frame as 8 bit, truncated as ComfyUI truncates."""
    return Image.fromarray(np.clip(255.0 * np.asarray(frame), 0, 255).astype(np.uint8))


def to_pixels(image: Image.Image) -> Pixels:
    """One picture as a batch of one."""
    pixels: Pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    return pixels[None]


def load(path: Path) -> tuple[Pixels, Pixels]:
    """All frames of a file of the first frame's size, turned upright, and their mask (1 − alpha).

    A damaged file is read as far as it goes, as ComfyUI does.
    """
    try:
        return _load(path)
    except (OSError, ValueError):
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return _load(path)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


def _load(path: Path) -> tuple[Pixels, Pixels]:
    with Image.open(path, formats=PILLOW) as file:
        frames = [ImageOps.exif_transpose(frame) for frame in ImageSequence.Iterator(file)]
        size = frames[0].size
        frames = [frame for frame in frames if frame.size == size]
        return np.concatenate([to_pixels(frame) for frame in frames]), np.concatenate([_mask(f) for f in frames])


def _mask(frame: Image.Image) -> Pixels:
    if "A" not in frame.getbands():
        return np.zeros((1, 64, 64), dtype=np.float32)  # ComfyUI's own size for "no mask"
    opacity: Pixels = np.asarray(frame.getchannel("A"), dtype=np.float32)[None] / 255.0
    return 1.0 - opacity


def resize(pixels: Pixels, width: int, height: int, method: str, crop: str = "disabled") -> Pixels:
    """Torch's interpolation of the same name: bilinear and bicubic do not average when they shrink."""
    if crop == "center":
        pixels = _crop_to_ratio(pixels, width / height)
    if method == "lanczos":
        frames = [to_pil(frame).resize((width, height), Image.Resampling.LANCZOS) for frame in pixels]
        return np.concatenate([to_pixels(frame) for frame in frames])
    rows = _weights(pixels.shape[1], height, method)
    columns = _weights(pixels.shape[2], width, method)
    scaled = np.einsum("yh,bhwc->bywc", rows, pixels, optimize=True)
    scaled = np.einsum("xw,bywc->byxc", columns, scaled, optimize=True)
    return np.asarray(scaled, dtype=np.float32)


def _crop_to_ratio(pixels: Pixels, ratio: float) -> Pixels:
    height, width = pixels.shape[1:3]
    x = round((width - width * (ratio / (width / height))) / 2) if width / height > ratio else 0
    y = round((height - height * ((width / height) / ratio)) / 2) if width / height < ratio else 0
    return pixels[:, y : height - y, x : width - x, :]


def _weights(source: int, target: int, method: str) -> Pixels:
    """The matrix that maps one axis of `source` pixels to `target` pixels (half-pixel centres, edges repeated)."""
    scale = source / target
    positions = np.arange(target)
    matrix = np.zeros((target, source), dtype=np.float32)
    if method == "nearest-exact":
        matrix[positions, np.minimum(((positions + 0.5) * scale).astype(int), source - 1)] = 1
        return matrix
    if method == "area":
        for position in range(target):
            first, last = position * source // target, -(-(position + 1) * source // target)
            matrix[position, first:last] = 1 / (last - first)
        return matrix
    centres = (positions + 0.5) * scale - 0.5
    if method == "bilinear":
        centres = np.maximum(centres, 0)
    first = np.floor(centres).astype(int)
    taps = (0, 1) if method == "bilinear" else (-1, 0, 1, 2)
    for tap in taps:
        distance = np.abs(centres - (first + tap))
        weight = 1 - distance if method == "bilinear" else _cubic(distance)
        # `+=` would count a pixel once where several taps fall on it, as they do at the edges.
        np.add.at(matrix, (positions, np.clip(first + tap, 0, source - 1)), weight.astype(np.float32))
    return matrix


def _cubic(x: Any, a: float = -0.75) -> Any:
    """Keys' kernel with torch's coefficient."""
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
