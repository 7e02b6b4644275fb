"""The view that the editor exports for 3D previews and savers: where its camera stands when a file has been loaded.

The camera of an earlier session is restored only with the model of an earlier run, which the server of a deployment
does not have. So the view depends on the file alone. Nodes that load a scene (Load3D) upload pictures of it instead.
"""

import math
from collections.abc import Mapping
from typing import Any

CLASSES = frozenset(
    {
        *("Preview3DAdvanced", "PreviewGaussianSplat", "PreviewPointCloud"),
        *("Save3DAdvanced", "SaveGaussianSplat", "SavePointCloud"),
    }
)
INPUT = "viewport_state"
_PERSPECTIVE, _ORTHOGRAPHIC = "perspective", "orthographic"
_FIELD_OF_VIEW = 35
_REACH = 5
"""Half the height of what an orthographic camera shows."""


def view(properties: Mapping[str, Any], width: Any, height: Any) -> dict[str, Any] | None:
    """Return the value of the node's `viewport_state`, or None if it cannot be known from the file."""
    saved = properties.get("Camera Config", {})
    camera = saved if isinstance(saved, Mapping) else {}
    kind, field_of_view = camera.get("cameraType", _PERSPECTIVE), camera.get("fov", _FIELD_OF_VIEW)
    numbers = (width, height, field_of_view)
    if kind not in (_PERSPECTIVE, _ORTHOGRAPHIC) or not all(_is_positive(number) for number in numbers):
        return None
    try:
        aspect = float(width) / float(height)
    except (OverflowError, ZeroDivisionError):
        return None
    if not math.isfinite(_REACH * aspect):
        return None
    side = _REACH * aspect if kind == _ORTHOGRAPHIC else _REACH
    return {
        "image": "",
        "mask": "",
        "normal": "",
        "camera_info": {
            "position": {"x": 10, "y": 10, "z": 10.000000000000002},
            "target": {"x": 0, "y": 0, "z": 0},
            "zoom": 1,
            "cameraType": kind,
            "quaternion": {
                "x": -0.2798481423331213,
                "y": 0.3647051996310008,
                "z": 0.11591689595929511,
                "w": 0.8804762392171493,
            },
            "fov": field_of_view,
            "aspect": aspect,
            "near": 0.01,
            "far": 10000,
            "frustum": {"left": -side, "right": side, "top": _REACH, "bottom": -_REACH},
        },
        "recording": "",
        "model_3d_info": [],
    }


def _is_positive(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and number > 0
