"""The graphs that the scenarios submit. Colours are random, because a cached result could hide a difference."""

import json
import secrets
from dataclasses import dataclass
from typing import Any

Graph = dict[str, dict[str, Any]]
Node = dict[str, Any]

PAYLOADS: dict[str, dict[str, Any]] = {
    "gifs": {
        "gifs": [
            {
                "filename": "AnimateDiff_00001.mp4",
                "subfolder": "",
                "type": "output",
                "format": "video/h264-mp4",
                "frame_rate": 8.0,
                "workflow": "AnimateDiff_00001.png",
                "fullpath": "/x/output/AnimateDiff_00001.mp4",
            }
        ]
    },
    "text_number": {"string": ["hello"], "value": [42], "tags": [["a", "b"]], "flag": [True], "nested": [{"a": 1}]},
    "nan": {"value": [float("nan"), float("inf")]},
    "empty": {},
    "abs_path": {"images": [{"filename": "/etc/hostname", "subfolder": "", "type": "output"}]},
}


@dataclass(frozen=True, slots=True)
class OwnNodes:
    """The test nodes: the lite engine's, or the equivalent pack in real ComfyUI."""

    lite: bool

    def slow(self, image: str, *, steps: int, seconds: float, preview: bool) -> Node:
        inputs = {"image": [image, 0], "steps": steps, "seconds_per_step": seconds, "preview": preview}
        return node("LiteSlowSteps" if self.lite else "WireSlowSteps", **inputs)

    def failing(self, image: str, kind: str) -> Node:
        return node("LiteRaise" if self.lite else "WireError", image=[image, 0], kind=kind)

    def blocking(self, image: str, seconds: float) -> Node:
        return node("LiteHang" if self.lite else "WireBlockingSleep", image=[image, 0], seconds=seconds)

    def showing(self, image: str, kind: str) -> Node:
        if self.lite:
            return node("LiteEmit", image=[image, 0], ui=json.dumps(PAYLOADS[kind]))
        return node("WireUI", image=[image, 0], kind=kind)


def node(class_type: str, **inputs: Any) -> Node:
    return {"class_type": class_type, "inputs": inputs}


def colour() -> int:
    return secrets.randbelow(0xFFFFFE) + 1


def empty_image(size: int = 64, *, height: int | None = None, batch_size: int = 1) -> Node:
    return node("EmptyImage", width=size, height=height or size, batch_size=batch_size, color=colour())


def save(source: str, prefix: str) -> Node:
    return node("SaveImage", images=[source, 0], filename_prefix=prefix)


def basic(prefix: str = "rec/basic") -> Graph:
    return {"1": empty_image(), "2": save("1", prefix)}


def slow(nodes: OwnNodes, steps: int, seconds: float, *, preview: bool = True, size: int = 64) -> Graph:
    return {
        "1": empty_image(size),
        "2": nodes.slow("1", steps=steps, seconds=seconds, preview=preview),
        "3": save("2", "rec/slow"),
    }
