"""A node that takes its time, step by step with previews, as a sampler does: for trying progress and cancelling."""

import time

from workers.lite.node import NodeClass, Result, Running, integer, link, number
from workers.lite.nodes.pixels import Pixels, to_pil

PREVIEW_SIZE = 512


def slow_steps(run: Running, *, image: Pixels, steps: int, seconds_per_step: float, preview: bool) -> Result:
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
