"""Nodes from pictures to pictures."""

import time

import numpy as np

from workers.lite.node import NodeClass, Result, Running, choice, integer, link, number
from workers.lite.nodes.images import LARGEST
from workers.lite.nodes.pixels import Pixels, resize, to_pil

METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
PREVIEW_SIZE = 512
BLENDS = ("normal", "multiply", "screen", "overlay", "soft_light", "difference")


def image_scale(run: Running, *, image: Pixels, upscale_method: str, width: int, height: int, crop: str) -> Result:
    """A side of 0 follows from the other and the picture's ratio; both 0 leave it as it is."""
    if width == 0 and height == 0:
        return Result((image,))
    if width == 0:
        width = max(1, round(image.shape[2] * height / image.shape[1]))
    elif height == 0:
        height = max(1, round(image.shape[1] * width / image.shape[2]))
    return Result((resize(image, width, height, upscale_method, crop),))


def image_scale_by(run: Running, *, image: Pixels, upscale_method: str, scale_by: float) -> Result:
    width, height = round(image.shape[2] * scale_by), round(image.shape[1] * scale_by)
    return Result((resize(image, width, height, upscale_method),))


def image_crop(run: Running, *, image: Pixels, width: int, height: int, x: int, y: int) -> Result:
    x, y = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
    return Result((image[:, y : y + height, x : x + width, :],))


def image_invert(run: Running, *, image: Pixels) -> Result:
    return Result((1.0 - image,))


def image_blend(run: Running, *, image1: Pixels, image2: Pixels, blend_factor: float, blend_mode: str) -> Result:
    if image1.shape[1:3] != image2.shape[1:3]:
        image2 = resize(image2, image1.shape[2], image1.shape[1], "bicubic", "center")
    blended = _blend(image1, image2, blend_mode)
    return Result((np.clip(image1 * (1 - blend_factor) + blended * blend_factor, 0, 1),))


def image_blur(run: Running, *, image: Pixels, blur_radius: int, sigma: float) -> Result:
    """A Gaussian of 2 × radius + 1 taps an axis, edges mirrored."""
    if blur_radius == 0:
        return Result((image,))
    taps = np.linspace(-1, 1, 2 * blur_radius + 1, dtype=np.float32)
    kernel = np.exp(-(taps**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    for axis in (1, 2):
        padding = [(0, 0)] * 4
        padding[axis] = (blur_radius, blur_radius)
        padded = np.pad(image, padding, mode="reflect")
        length = image.shape[axis]
        shifted = (np.take(padded, range(start, start + length), axis) * tap for start, tap in enumerate(kernel))
        image = np.sum(list(shifted), axis=0, dtype=np.float32)
    return Result((image,))


def _blend(below: Pixels, above: Pixels, mode: str) -> Pixels:
    match mode:
        case "multiply":
            return below * above
        case "screen":
            return 1 - (1 - below) * (1 - above)
        case "overlay":
            return np.where(below <= 0.5, 2 * below * above, 1 - 2 * (1 - below) * (1 - above))
        case "soft_light":
            curve = np.where(below <= 0.25, ((16 * below - 12) * below + 4) * below, np.sqrt(below))
            dark = below - (1 - 2 * above) * below * (1 - below)
            return np.where(above <= 0.5, dark, below + (2 * above - 1) * (curve - below))
        case "difference":
            return below - above
        case _:
            return above


def slow_steps(run: Running, *, image: Pixels, steps: int, seconds_per_step: float, preview: bool) -> Result:
    """Takes its time, step by step with previews, as a sampler does: for trying progress and cancelling."""
    for step in range(1, steps + 1):
        time.sleep(seconds_per_step)
        picture = None
        if preview:
            picture = to_pil(image[0] * (step / steps))
            picture.thumbnail((PREVIEW_SIZE, PREVIEW_SIZE))
        run.progress(step, steps, picture)
    return Result((image,))


NODES = (
    NodeClass(
        "ImageScale",
        image_scale,
        {
            "image": link("IMAGE"),
            "upscale_method": choice(*METHODS),
            "width": integer(512, 0, LARGEST),
            "height": integer(512, 0, LARGEST),
            "crop": choice("disabled", "center"),
        },
        outputs=("IMAGE",),
    ),
    NodeClass(
        "ImageScaleBy",
        image_scale_by,
        {"image": link("IMAGE"), "upscale_method": choice(*METHODS), "scale_by": number(1.0, 0.01, 8.0)},
        outputs=("IMAGE",),
    ),
    NodeClass(
        "ImageCrop",
        image_crop,
        {
            "image": link("IMAGE"),
            "width": integer(512, 1, LARGEST),
            "height": integer(512, 1, LARGEST),
            "x": integer(0, 0, LARGEST),
            "y": integer(0, 0, LARGEST),
        },
        outputs=("IMAGE",),
    ),
    NodeClass("ImageInvert", image_invert, {"image": link("IMAGE")}, outputs=("IMAGE",)),
    NodeClass(
        "ImageBlend",
        image_blend,
        {
            "image1": link("IMAGE"),
            "image2": link("IMAGE"),
            "blend_factor": number(0.5, 0.0, 1.0),
            "blend_mode": choice(*BLENDS),
        },
        outputs=("IMAGE",),
    ),
    NodeClass(
        "ImageBlur",
        image_blur,
        {"image": link("IMAGE"), "blur_radius": integer(1, 1, 31), "sigma": number(1.0, 0.1, 10.0, 0.1)},
        outputs=("IMAGE",),
    ),
    NodeClass(
        "LiteSlowSteps",
        slow_steps,
        {
            "image": link("IMAGE"),
            "steps": integer(10, 1, 10_000),
            "seconds_per_step": number(0.1, 0.0, 600.0, 0.001),
            "preview": ["BOOLEAN", {"default": True}],
        },
        outputs=("IMAGE",),
    ),
)
