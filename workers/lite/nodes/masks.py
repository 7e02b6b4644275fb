"""Masks: float32 arrays of batch × height × width, 1 where something applies."""

import numpy as np

from workers.lite.node import NodeClass, Result, Running, choice, integer, link, number
from workers.lite.nodes.images import LARGEST, preview_image
from workers.lite.nodes.pixels import Pixels, resize

CHANNELS = ("red", "green", "blue", "alpha")
OPERATIONS = ("multiply", "add", "subtract", "and", "or", "xor")


def image_to_mask(run: Running, *, image: Pixels, channel: str) -> Result:
    return Result((image[:, :, :, CHANNELS.index(channel)],))


def mask_to_image(run: Running, *, mask: Pixels) -> Result:
    return Result((_as_image(mask),))


def mask_preview(run: Running, *, mask: Pixels) -> Result:
    shown = preview_image(run, images=_as_image(mask))
    return Result((mask,), shown.ui)


def solid_mask(run: Running, *, value: float, width: int, height: int) -> Result:
    return Result((np.full((1, height, width), value, dtype=np.float32),))


def invert_mask(run: Running, *, mask: Pixels) -> Result:
    return Result((1.0 - mask,))


def threshold_mask(run: Running, *, mask: Pixels, value: float) -> Result:
    return Result(((mask > np.float32(value)).astype(np.float32),))


def feather_mask(run: Running, *, mask: Pixels, left: int, top: int, right: int, bottom: int) -> Result:
    """Multiplies each edge by a ramp that ends at 1."""
    height, width = mask.shape[1:]
    columns = _ramp(width, left) * _ramp(width, right)[::-1]
    rows = _ramp(height, top) * _ramp(height, bottom)[::-1]
    return Result((mask * columns[None, None, :] * rows[None, :, None],))


def mask_composite(run: Running, *, destination: Pixels, source: Pixels, x: int, y: int, operation: str) -> Result:
    """Combines the part of the source that lies inside the destination."""
    output = destination.copy()
    below = output[:, y : y + source.shape[1], x : x + source.shape[2]]
    above = source[:, : below.shape[1], : below.shape[2]]
    below[...] = _combined(below, above, operation)
    return Result((np.clip(output, 0.0, 1.0),))


def image_composite_masked(
    run: Running,
    *,
    destination: Pixels,
    source: Pixels,
    x: int,
    y: int,
    resize_source: bool,
    mask: Pixels | None = None,
) -> Result:
    """Pastes the source; a mask of another size is stretched to the source's."""
    output = destination.copy()
    if resize_source:
        source = resize(source, output.shape[2], output.shape[1], "bilinear")
    source = _repeated(source, len(output))
    height, width = source.shape[1:3]
    if mask is None:
        opacity = np.ones((1, height, width, 1), dtype=np.float32)
    else:
        opacity = resize(mask[..., None], width, height, "bilinear")
    opacity = _repeated(opacity, len(source))
    below = output[:, y : y + height, x : x + width]
    above, share = (pixels[:, : below.shape[1], : below.shape[2]] for pixels in (source, opacity))
    below[...] = share * above + (1 - share) * below
    return Result((output,))


def _as_image(mask: Pixels) -> Pixels:
    return np.repeat(mask[..., None], 3, axis=-1)


def _ramp(length: int, size: int) -> Pixels:
    """Return factors for a row of pixels: from 1/size to 1 over the first `size` of them."""
    factors = np.ones(length, dtype=np.float32)
    size = min(size, length)
    factors[:size] = np.arange(1, size + 1, dtype=np.float32) / max(size, 1)
    return factors


def _combined(below: Pixels, above: Pixels, operation: str) -> Pixels:
    match operation:
        case "multiply":
            return below * above
        case "add":
            return below + above
        case "subtract":
            return below - above
    one, other = np.round(below).astype(bool), np.round(above).astype(bool)
    combined = {"and": one & other, "or": one | other, "xor": one ^ other}[operation]
    return np.asarray(combined, dtype=np.float32)


def _repeated(pixels: Pixels, count: int) -> Pixels:
    """Repeat or cut a batch to a number of frames."""
    return pixels[np.arange(count) % len(pixels)]


NODES = (
    NodeClass("ImageToMask", image_to_mask, {"image": link("IMAGE"), "channel": choice(*CHANNELS)}, outputs=("MASK",)),
    NodeClass("MaskToImage", mask_to_image, {"mask": link("MASK")}, outputs=("IMAGE",)),
    NodeClass("MaskPreview", mask_preview, {"mask": link("MASK")}, outputs=("MASK",), is_output=True),
    NodeClass(
        "SolidMask",
        solid_mask,
        {"value": number(1.0, 0.0, 1.0), "width": integer(512, 1, LARGEST), "height": integer(512, 1, LARGEST)},
        outputs=("MASK",),
    ),
    NodeClass("InvertMask", invert_mask, {"mask": link("MASK")}, outputs=("MASK",)),
    NodeClass(
        "ThresholdMask", threshold_mask, {"mask": link("MASK"), "value": number(0.5, 0.0, 1.0)}, outputs=("MASK",)
    ),
    NodeClass(
        "FeatherMask",
        feather_mask,
        {"mask": link("MASK"), **{side: integer(0, 0, LARGEST) for side in ("left", "top", "right", "bottom")}},
        outputs=("MASK",),
    ),
    NodeClass(
        "MaskComposite",
        mask_composite,
        {
            "destination": link("MASK"),
            "source": link("MASK"),
            "x": integer(0, 0, LARGEST),
            "y": integer(0, 0, LARGEST),
            "operation": choice(*OPERATIONS),
        },
        outputs=("MASK",),
    ),
    NodeClass(
        "ImageCompositeMasked",
        image_composite_masked,
        {
            "destination": link("IMAGE"),
            "source": link("IMAGE"),
            "x": integer(0, 0, LARGEST),
            "y": integer(0, 0, LARGEST),
            "resize_source": ["BOOLEAN", {"default": False}],
        },
        optional={"mask": link("MASK")},
        outputs=("IMAGE",),
    ),
)
