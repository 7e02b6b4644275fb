"""Runs a seed: `simulate(seed)` returns the violations."""

import base64
import random
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

from tests.simulation.faults import Rates
from tests.simulation.virtual_time import run_virtually
from tests.simulation.world import World

YOUNG = timedelta(seconds=10)
"""Shorter than the longest pause, so that writers presumed dead resume and must be fenced."""


PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
"""A picture of one pixel. Files of other types are examined by a real process, which does not run in virtual time."""


@dataclass(frozen=True, slots=True)
class Course:
    """The course of a seed: its violations, every call that took effect, and the number of accepted jobs."""

    seed: int
    violations: list[str]
    history: list[str]
    accepted: int


def simulate(seed: int, rates: Rates | None = None) -> Course:
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-simulation-") as name:
        folder = Path(name)
        (folder / "output.txt").write_text("made\n")
        (folder / "input.png").write_bytes(PICTURE)
        with _seeded(seed), ExitStack() as patches:
            for module in (
                "storage.jobs.timers",
                "storage.jobs.store",
                "storage.outbox",
                "storage.batches",
                "workers.upkeep.jobs",
            ):
                patches.enter_context(patch(f"{module}.YOUNG", YOUNG))
            return run_virtually(lambda: _course(seed, rates or Rates(), folder))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Derive ids, nonces and jitter from the seed instead of the system's entropy."""
    before = random.getstate()
    random.seed(seed)
    entropy = random.Random(seed)  # noqa: S311  as above
    try:
        with (
            patch("uuid.uuid4", lambda: uuid.UUID(int=entropy.getrandbits(128), version=4)),
            patch("secrets.token_hex", lambda size: f"{entropy.getrandbits(8 * size):0{2 * size}x}"),
        ):
            yield
    finally:
        random.setstate(before)


async def _course(seed: int, rates: Rates, folder: Path) -> Course:
    world = World(seed, rates, folder)
    violations = await world.run()
    return Course(seed, violations, world.watcher.history, len(world.accepted))
