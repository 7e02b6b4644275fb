"""Pictures next to each other, and pictures and masks of another size."""

import math
from typing import Any

import numpy as np

from workers.lite.node import NodeClass, Result, Running, choice, dynamic, integer, link, number
from workers.lite.nodes.images import LARGEST, save_temporary
from workers.lite.nodes.pixels import Pixels, resize
from workers.lite.nodes.transforms import METHODS

COLOURS = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
}


def image_stitch(
    run: Running,
    *,
    image1: Pixels,
    direction: str,
    match_image_size: bool,
    spacing_width: int,
    spacing_color: str,
    image2: Pixels | None = None,
) -> Result:
    """Puts image2 at a side of image1, scaled to its size or centred on white or black, with a gap between them."""
    if image2 is None:
        return Result((image1,))
    frames = max(len(image1), len(image2))
    image1, image2 = (_with_frames(image, frames) for image in (image1, image2))
    along, across = (2, 1) if direction in ("left", "right") else (1, 2)
    if match_image_size:
        ratio = image2.shape[2] / image2.shape[1]
        height, width = image1.shape[1:3]
        if along == 2:
            width = int(height * ratio)
        else:
            height = int(width / ratio)
        image2 = resize(image2, width, height, "lanczos")
    else:
        size = max(image1.shape[across], image2.shape[across])
        # ComfyUI pads in black where the gap has a colour.
        shade = 1.0 if spacing_color == "white" else 0.0
        image1, image2 = (_padded(image, across, size, shade) for image in (image1, image2))
    parts = [image2, image1] if direction in ("left", "up") else [image1, image2]
    if spacing_width > 0:
        shape = list(image1.shape)
        shape[along], shape[across] = spacing_width + spacing_width % 2, max(part.shape[across] for part in parts)
        parts.insert(1, np.broadcast_to(np.array(COLOURS[spacing_color], dtype=np.float32), shape))
    return Result((np.concatenate(parts, axis=along),))


def resize_image_mask(run: Running, *, input: Pixels, resize_type: str, scale_method: str, **given: Any) -> Result:  # noqa: A002  ComfyUI's name
    """Scales a picture or a mask; `given` are the inputs that `resize_type` adds."""
    options = {name.removeprefix("resize_type_"): value for name, value in given.items()}
    is_mask = input.ndim == 3
    pixels = input[..., None] if is_mask else input
    size = _size(resize_type, pixels.shape[2], pixels.shape[1], options)
    if size is not None:
        pixels = _scaled(pixels, *size, scale_method, options.get("crop", "disabled"), is_mask=is_mask)
    return Result((pixels[..., 0] if is_mask else pixels,))


def image_compare(run: Running, *, image_a: Pixels | None = None, image_b: Pixels | None = None, **_: Any) -> Result:
    """Shows both pictures as temporary files."""
    pictures = {"a": image_a, "b": image_b}
    shown = {
        f"{side}_images": [] if image is None else save_temporary(run, image, f"comfy.compare.{side}")
        for side, image in pictures.items()
    }
    return Result((), shown)


def _with_frames(image: Pixels, frames: int) -> Pixels:
    return image[np.minimum(np.arange(frames), len(image) - 1)]


def _padded(image: Pixels, axis: int, size: int, shade: float) -> Pixels:
    missing = size - image.shape[axis]
    padding = [(0, 0)] * 4
    padding[axis] = (missing // 2, missing - missing // 2)
    return np.pad(image, padding, constant_values=shade)


def _size(kind: str, width: int, height: int, options: dict[str, Any]) -> tuple[int, int] | None:
    """Return the new width and height, or None to leave the picture."""
    match kind:
        case "scale dimensions" | "scale width" | "scale height":
            return _of_sides(width, height, options.get("width", 0), options.get("height", 0))
        case "scale by multiplier":
            return round(width * options["multiplier"]), round(height * options["multiplier"])
        case "scale longer dimension":
            return _of_edge(width, height, options["longer_size"], is_width=width >= height)
        case "scale shorter dimension":
            return _of_edge(width, height, options["shorter_size"], is_width=width <= height)
        case "scale total pixels":
            factor = math.sqrt(int(options["megapixels"] * 1024 * 1024) / (width * height))
            return round(width * factor), round(height * factor)
        case "match size":
            return options["match"].shape[2], options["match"].shape[1]
    raise ValueError(f"Unsupported resize type: {kind}")


def _of_sides(width: int, height: int, wanted_width: int, wanted_height: int) -> tuple[int, int] | None:
    """A side of 0 follows from the other and the picture's ratio; both 0 leave it."""
    if wanted_width == 0 and wanted_height == 0:
        return None
    return (
        wanted_width or max(1, round(width * wanted_height / height)),
        wanted_height or max(1, round(height * wanted_width / width)),
    )


def _of_edge(width: int, height: int, size: int, *, is_width: bool) -> tuple[int, int]:
    return (size, round(height / width * size)) if is_width else (round(width / height * size), size)


def _scaled(pixels: Pixels, width: int, height: int, method: str, crop: str, *, is_mask: bool) -> Pixels:
    if method == "lanczos" and is_mask:
        return resize(np.repeat(pixels, 3, axis=-1), width, height, method, crop)[..., :1]
    return resize(pixels, width, height, method, crop)


_SIDE = integer(512, 0, LARGEST)
_CROP = choice("disabled", "center", default="center")

NODES = (
    NodeClass(
        "ImageStitch",
        image_stitch,
        {
            "image1": link("IMAGE"),
            "direction": choice("right", "down", "left", "up", default="right"),
            "match_image_size": ["BOOLEAN", {"default": True}],
            "spacing_width": integer(0, 0, 1024),
            "spacing_color": choice(*COLOURS, default="white"),
        },
        optional={"image2": link("IMAGE")},
        outputs=("IMAGE",),
    ),
    NodeClass(
        "ResizeImageMaskNode",
        resize_image_mask,
        {
            "input": ["COMFY_MATCHTYPE_V3", {"template": {"template_id": "input_type", "allowed_types": "IMAGE,MASK"}}],
            "resize_type": dynamic(
                {
                    "scale dimensions": {"width": _SIDE, "height": _SIDE, "crop": _CROP},
                    "scale by multiplier": {"multiplier": number(1.0, 0.01, 8.0)},
                    "scale longer dimension": {"longer_size": _SIDE},
                    "scale shorter dimension": {"shorter_size": _SIDE},
                    "scale width": {"width": _SIDE},
                    "scale height": {"height": _SIDE},
                    "scale total pixels": {"megapixels": number(1.0, 0.01, 16.0)},
                    "match size": {"match": link("IMAGE,MASK"), "crop": _CROP},
                }
            ),
            "scale_method": choice(*METHODS, default="area"),
        },
        outputs=("COMFY_MATCHTYPE_V3",),
    ),
    NodeClass(
        "ImageCompare",
        image_compare,
        {"compare_view": ["IMAGECOMPARE", {"socketless": True}]},
        optional={"image_a": link("IMAGE"), "image_b": link("IMAGE")},
        is_output=True,
    ),
)
