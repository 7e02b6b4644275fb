"""Animated pictures."""

from workers.lite.node import NodeClass, Result, Running, choice, integer, link, number, text
from workers.lite.nodes.pixels import Pixels, to_pil

_METHODS = {"default": 4, "fastest": 0, "slowest": 6}


def save_animated_webp(  # the node's own inputs
    run: Running, *, images: Pixels, filename_prefix: str, fps: float, lossless: bool, quality: int, method: str
) -> Result:
    folder, base, counter = run.folders.save_path(filename_prefix, run.folders.output)
    path = folder / f"{base}_{counter:05}_.webp"
    first, *rest = [to_pil(frame) for frame in images]
    first.save(
        path,
        save_all=True,
        append_images=rest,
        duration=int(1000.0 / fps),
        lossless=lossless,
        quality=quality,
        method=_METHODS[method],
    )
    return Result((images,), {"images": [run.folders.entry(path, "output")], "animated": (len(images) != 1,)})


def save_animated_png(run: Running, *, images: Pixels, filename_prefix: str, fps: float, compress_level: int) -> Result:
    folder, base, counter = run.folders.save_path(filename_prefix, run.folders.output)
    path = folder / f"{base}_{counter:05}_.png"
    first, *rest = [to_pil(frame) for frame in images]
    first.save(
        path, save_all=True, append_images=rest, duration=int(1000.0 / fps), compress_level=compress_level, loop=0
    )
    return Result((images,), {"images": [run.folders.entry(path, "output")], "animated": (True,)})


NODES = (
    NodeClass(
        "SaveAnimatedWEBP",
        save_animated_webp,
        {
            "images": link("IMAGE"),
            "filename_prefix": text("ComfyUI"),
            "fps": number(6.0, 0.01, 1000.0),
            "lossless": ["BOOLEAN", {"default": True}],
            "quality": integer(80, 0, 100),
            "method": choice(*_METHODS),
        },
        outputs=("IMAGE",),
        is_output=True,
    ),
    NodeClass(
        "SaveAnimatedPNG",
        save_animated_png,
        {
            "images": link("IMAGE"),
            "filename_prefix": text("ComfyUI"),
            "fps": number(6.0, 0.01, 1000.0),
            "compress_level": integer(4, 0, 9),
        },
        outputs=("IMAGE",),
        is_output=True,
    ),
)
