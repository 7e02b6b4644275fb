"""The results of the picture nodes for given pixels. Real ComfyUI made the expectations: one PNG per case, with its
frames one below the other.

`python -m tests.conformance.pictures URL` regenerates them from a running ComfyUI.
"""

import asyncio
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.conformance.graphs import Graph, OwnNodes, node, save
from tests.conformance.scenarios.outputs import view
from tests.conformance.traffic import Traffic

FOLDER = Path(__file__).parent / "expected" / "pictures"
Pixels = npt.NDArray[np.uint8]

_SCALES = {
    "up": {"width": 41, "height": 29, "crop": "disabled"},
    "down": {"width": 9, "height": 7, "crop": "disabled"},
    "crop": {"width": 16, "height": 16, "crop": "center"},
}
_METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
_BLENDS = ("normal", "multiply", "screen", "overlay", "soft_light", "difference")
_OPERATIONS = ("multiply", "add", "subtract", "and", "or", "xor")
_FREE_SIDES = {"width-0": (0, 30), "height-0": (30, 0), "both-0": (0, 0)}


def sources() -> dict[str, bytes]:
    """Return the uploaded files by name: smooth, noisy, transparent, rotated, few colours, many frames, 16 bit."""
    random = np.random.default_rng(7)
    rows, columns = np.mgrid[0:17, 0:23]
    smooth = np.stack([rows * 15, columns * 11, 255 - rows * 7 - columns * 5], axis=-1).astype(np.uint8)
    noise = random.integers(0, 256, (17, 23, 3), dtype=np.uint8)
    opacity = np.dstack([noise, random.integers(0, 256, (17, 23), dtype=np.uint8)])
    deep = (random.integers(0, 65536, (17, 23), dtype=np.uint16)).astype(np.uint16)
    frames = [Image.fromarray(np.roll(smooth, shift, axis=1)).quantize(16) for shift in (0, 5, 9)]
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    return {
        "smooth.png": _encoded(Image.fromarray(smooth)),
        "noise.png": _encoded(Image.fromarray(noise)),
        "opacity.png": _encoded(Image.fromarray(opacity)),
        "turned.png": _encoded(Image.fromarray(smooth), exif=exif),
        "palette.png": _encoded(Image.fromarray(smooth).quantize(8)),
        "deep.png": _encoded(Image.fromarray(deep)),
        "frames.gif": _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100),
    }


def _encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def cases() -> dict[str, Graph]:
    """Return graphs by name; node "3" is saved, and nodes "1" and "2" load the smooth and the noisy picture."""
    one: dict[str, dict[str, Any]] = {
        "invert": node("ImageInvert", image=["1", 0]),
        "crop": node("ImageCrop", image=["1", 0], width=10, height=8, x=5, y=6),
        "crop-beyond": node("ImageCrop", image=["1", 0], width=100, height=100, x=15, y=9),
        "blur": node("ImageBlur", image=["2", 0], blur_radius=3, sigma=1.5),
        "blur-0": node("ImageBlur", image=["2", 0], blur_radius=1, sigma=0.1),
        "batch": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
        "repeat": node("RepeatImageBatch", image=["1", 0], amount=3),
        "empty": node("EmptyImage", width=8, height=4, batch_size=2, color=0x336699),
    }
    one |= _stitches() | _masks()
    for method in _METHODS:
        for name, size in _SCALES.items():
            one[f"scale-{method}-{name}"] = node("ImageScale", image=["2", 0], upscale_method=method, **size)
        one[f"scale-by-{method}"] = node("ImageScaleBy", image=["1", 0], upscale_method=method, scale_by=1.37)
    for name, (width, height) in _FREE_SIDES.items():
        size = {"width": width, "height": height, "crop": "disabled"}
        one[f"scale-{name}"] = node("ImageScale", image=["1", 0], upscale_method="bilinear", **size)
    for mode in _BLENDS:
        one[f"blend-{mode}"] = node("ImageBlend", image1=["1", 0], image2=["2", 0], blend_factor=0.6, blend_mode=mode)
    for name in sources():
        one[f"load-{name.replace('.', '-')}"] = node("LoadImage", image=name)
    return {name: _graph(name, last) for name, last in one.items()}


def _stitches() -> dict[str, dict[str, Any]]:
    """Return stitches of the smooth picture and a part of the noisy one, which has another size."""
    gap = {"match_image_size": True, "spacing_width": 0, "spacing_color": "white"}
    apart = {"match_image_size": False, "spacing_width": 3, "spacing_color": "red"}
    return {
        f"stitch-{direction}-{name}": node("ImageStitch", image1=["1", 0], image2=["5", 0], direction=direction, **how)
        for direction in ("right", "down", "left", "up")
        for name, how in (("matched", gap), ("apart", apart))
    }


def _masks() -> dict[str, dict[str, Any]]:
    """Return nodes whose mask is saved as a picture, and those that use a mask."""
    at = {"destination": ["6", 0], "source": ["7", 0], "x": 9, "y": 6}
    masks = {
        "mask-channel": node("ImageToMask", image=["1", 0], channel="green"),
        "mask-solid": node("SolidMask", value=0.3, width=7, height=5),
        "mask-invert": node("InvertMask", mask=["6", 0]),
        "mask-threshold": node("ThresholdMask", mask=["6", 0], value=0.5),
        "mask-feather": node("FeatherMask", mask=["6", 0], left=5, top=4, right=30, bottom=0),
        **{f"mask-{one}": node("MaskComposite", **at, operation=one) for one in _OPERATIONS},
    }
    paste = {"destination": ["1", 0], "x": 8, "y": 5}
    return masks | {
        "paste": node("ImageCompositeMasked", **paste, source=["2", 0], resize_source=False),
        "paste-masked": node("ImageCompositeMasked", **paste, source=["2", 0], mask=["7", 0], resize_source=False),
        "paste-resized": node("ImageCompositeMasked", **paste, source=["5", 0], mask=["6", 0], resize_source=True),
    }


def _graph(name: str, last: dict[str, Any]) -> Graph:
    """Return a graph of the nodes that the last one needs. A mask is saved as a picture."""
    sources = {
        "1": node("LoadImage", image="smooth.png"),
        "2": node("LoadImage", image="noise.png"),
        "5": node("ImageCrop", image=["2", 0], width=11, height=13, x=2, y=1),
        "6": node("ImageToMask", image=["2", 0], channel="red"),
        "7": node("ImageToMask", image=["5", 0], channel="blue"),
    }
    if name.startswith("mask-"):
        return {**sources, "3": last, "8": node("MaskToImage", mask=["3", 0]), "4": save("8", f"pictures/{name}")}
    return {**sources, "3": last, "4": save("3", f"pictures/{name}")}


async def made(traffic: Traffic) -> dict[str, Pixels]:
    """Return the frames of every case, one below the other."""
    for name, content in sources().items():
        await traffic.upload(content, name, overwrite="true")
    found = {}
    for name, graph in cases().items():
        history = await traffic.run(graph)
        assert history["status"]["completed"], (name, history["status"])
        entries = history["outputs"]["4"]["images"]
        frames = [pixels_of(await traffic.bytes_of(view(entry))) for entry in entries]
        found[name] = np.concatenate(frames)
    return found


def pixels_of(content: bytes) -> Pixels:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


async def _write(url: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    async with Traffic(url, OwnNodes(lite=False)) as traffic:
        for name, pixels in (await made(traffic)).items():
            Image.fromarray(pixels).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    asyncio.run(_write(sys.argv[1]))
