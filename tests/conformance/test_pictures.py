"""The picture nodes compute what real ComfyUI computes."""

import numpy as np
import pytest

from tests.conformance import pictures
from tests.conformance.engines import Engine
from tests.conformance.traffic import Traffic

pytestmark = pytest.mark.anyio

TOLERANCE = 1
"""The tolerance, out of 255: in 8 bits a difference in the last bit of a float may become one step."""


async def test_pixels_match_real_comfyui(engine: Engine) -> None:
    """Every picture node produces real ComfyUI's pixels, frame by frame."""
    async with Traffic(engine.url, engine.nodes) as traffic:
        await traffic.until_idle()
        found = await pictures.made(traffic)
    wrong = {}
    for name, pixels in found.items():
        wanted = pictures.pixels_of((pictures.FOLDER / f"{name}.png").read_bytes())
        if pixels.shape != wanted.shape:
            wrong[name] = f"{pixels.shape} for {wanted.shape}"
        elif (furthest := int(np.abs(pixels.astype(int) - wanted).max())) > TOLERANCE:
            wrong[name] = f"off by {furthest}"
    assert wrong == {}
