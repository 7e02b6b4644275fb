"""Videos, sounds and animations have the content of real ComfyUI's."""

import json
from typing import Any

import pytest

from tests.conformance import media
from tests.conformance.engines import Engine
from tests.conformance.traffic import Traffic

pytestmark = pytest.mark.anyio

TOLERANCE = 4
"""The tolerance, out of 255, for colours from a lossy encoder."""


async def test_media_files_match_real_comfyui(engine: Engine) -> None:
    """Codec, size, rate, numbers of frames and samples, durations and colours equal real ComfyUI's."""
    async with Traffic(engine.url, engine.nodes) as traffic:
        await traffic.until_idle()
        found = await media.made(traffic)
    assert found == _near(json.loads(media.FILE.read_text()))


def _near(value: Any, key: str = "") -> Any:
    if key == "colour":
        return pytest.approx(value, abs=TOLERANCE)
    if isinstance(value, dict):
        return {name: _near(inner, name) for name, inner in value.items()}
    return [_near(inner) for inner in value] if isinstance(value, list) else value
