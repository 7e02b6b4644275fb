"""Making, loading, saving and previewing pictures."""

import hashlib
import json
import random
import string
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import PngImagePlugin

from workers.lite.folders import Folders
from workers.lite.node import NodeClass, Result, Running, integer, link, text
from workers.lite.nodes.pixels import Pixels, load, resize, to_pil

LARGEST = 16384


def empty_image(run: Running, *, width: int, height: int, batch_size: int = 1, color: int = 0) -> Result:
    rgb = np.array([color >> 16 & 255, color >> 8 & 255, color & 255], dtype=np.float32) / 255.0
    return Result((np.broadcast_to(rgb, (batch_size, height, width, 3)),))


def load_image(run: Running, *, image: str) -> Result:
    path = run.folders.annotated(image)
    if path is None:
        raise ValueError(f"Invalid image file: {image}")
    return Result(load(path))


def missing_image(folders: Folders, values: Mapping[str, Any]) -> str | None:
    path = folders.annotated(str(values["image"]))
    return None if path is not None and path.is_file() else f"Invalid image file: {values['image']}"


def image_content(folders: Folders, values: Mapping[str, Any]) -> str:
    path = folders.annotated(str(values["image"]))
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else ""


def save_image(run: Running, *, images: Pixels, filename_prefix: str = "ComfyUI") -> Result:
    return Result((images,), {"images": _save(run, images, filename_prefix, "output")})


def preview_image(run: Running, *, images: Pixels) -> Result:
    return Result((images,), {"images": save_temporary(run, images, "ComfyUI")})


def save_temporary(run: Running, images: Pixels, prefix: str) -> list[dict[str, str]]:
    """Save pictures in the temp folder under names that no other node uses, and return their entries."""
    suffix = "".join(random.choices(string.ascii_lowercase, k=5))  # noqa: S311  a name, not a secret
    return _save(run, images, f"{prefix}_temp_{suffix}", "temp")


def save_image_websocket(run: Running, *, images: Pixels) -> Result:
    """Sends every picture as a preview, and keeps none."""
    for index, frame in enumerate(images):
        run.progress(index, len(images), to_pil(frame), "PNG")
    return Result()


def image_batch(run: Running, *, image1: Pixels, image2: Pixels) -> Result:
    if image1.shape[1:] != image2.shape[1:]:
        image2 = resize(image2, image1.shape[2], image1.shape[1], "bilinear", "center")
    return Result((np.concatenate([image1, image2]),))


def repeat_image_batch(run: Running, *, image: Pixels, amount: int) -> Result:
    return Result((np.concatenate([image] * amount),))


def _save(run: Running, images: Pixels, prefix: str, kind: str) -> list[dict[str, str]]:
    folder, base, counter = run.folders.save_path(prefix, run.folders.of(kind) or run.folders.output)
    chunks = PngImagePlugin.PngInfo()
    for key, value in run.metadata.items():
        chunks.add_text(key, json.dumps(value))
    entries = []
    for offset, frame in enumerate(images):
        path = folder / f"{base}_{counter + offset:05}_.png"
        to_pil(frame).save(path, pnginfo=chunks, compress_level=1 if kind == "temp" else 4)
        entries.append(run.folders.entry(path, kind))
    return entries


NODES = (
    NodeClass(
        "EmptyImage",
        empty_image,
        {
            "width": integer(512, 1, LARGEST),
            "height": integer(512, 1, LARGEST),
            "batch_size": integer(1, 1, 4096),
            "color": integer(0, 0, 0xFFFFFF),
        },
        outputs=("IMAGE",),
    ),
    NodeClass(
        "LoadImage",
        load_image,
        {"image": [[], {"image_upload": True}]},
        outputs=("IMAGE", "MASK"),
        check=("image", missing_image),
        fingerprint=image_content,
    ),
    NodeClass(
        "SaveImage",
        save_image,
        {"images": link("IMAGE"), "filename_prefix": text("ComfyUI")},
        outputs=("IMAGE",),
        is_output=True,
    ),
    NodeClass("PreviewImage", preview_image, {"images": link("IMAGE")}, outputs=("IMAGE",), is_output=True),
    NodeClass("SaveImageWebsocket", save_image_websocket, {"images": link("IMAGE")}, is_output=True),
    NodeClass("ImageBatch", image_batch, {"image1": link("IMAGE"), "image2": link("IMAGE")}, outputs=("IMAGE",)),
    NodeClass(
        "RepeatImageBatch",
        repeat_image_batch,
        {"image": link("IMAGE"), "amount": integer(1, 1, 4096)},
        outputs=("IMAGE",),
    ),
)
