"""The choice of attention that a worker knows without a measurement: that of an earlier start, or a likely one.

A choice is valid for one image, GPU, driver and probe. A measurement loads torch, which takes as long as ComfyUI's own
import of it; `nvidia-smi` and a search of the engine's packages take a fraction of a second.
"""

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from storage.errors import StorageError
from storage.pools.worker_facts import AttentionChoice, AttentionStore
from workers import attention_probe

logger = logging.getLogger(__name__)

QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader")
QUERY_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class SeenGpu:
    """The first GPU as described by the driver."""

    name: str
    driver: str
    capability: tuple[int, int]


async def seen_gpu(environment: Mapping[str, str]) -> SeenGpu | None:
    """Return the first GPU; None without a GPU or an NVIDIA driver."""
    try:
        process = await asyncio.create_subprocess_exec(
            *QUERY,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(QUERY_LIMIT_S):
            said, _ = await process.communicate()
    except TimeoutError:
        logger.warning("nvidia-smi does not answer")
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return parse_gpu(said.decode(errors="replace")) if process.returncode == 0 else None


def parse_gpu(said: str) -> SeenGpu | None:
    """Parse the output of `nvidia-smi`, such as `NVIDIA L40S, 570.86.15, 8.9`, one line per GPU."""
    try:
        name, driver, capability = (part.strip() for part in said.splitlines()[0].rsplit(",", 2))
        major, minor = capability.split(".")
        return SeenGpu(name, driver, (int(major), int(minor)))
    except (IndexError, ValueError):
        return None


def has_sage(python: str) -> bool:
    """Whether SageAttention is installed for that Python, so that it is the likely choice."""
    # Not resolved, because the Python of an environment is a link to another folder's.
    folder = Path(python).parent.parent
    return any(folder.glob("lib/python3*/site-packages/sageattention/__init__.py"))


class AttentionMemory:
    """Earlier choices of a pool in one image. If the bucket fails, attention is measured again."""

    def __init__(self, store: AttentionStore, pool: str, image: str) -> None:
        self._store = store
        self._pool = pool
        self._image = image

    async def recall(self, gpu: SeenGpu, setting: str) -> AttentionChoice | None:
        try:
            return await self._store.recall(self._pool, self._valid_for(gpu, setting))
        except StorageError as error:
            logger.warning("an earlier choice of the attention is not known: %s", error)
            return None

    async def remember(self, gpu: SeenGpu, setting: str, choice: AttentionChoice) -> None:
        try:
            await self._store.remember(self._pool, self._valid_for(gpu, setting), choice)
        except StorageError as error:
            logger.warning("the choice of the attention is not remembered: %s", error)

    def _valid_for(self, gpu: SeenGpu, setting: str) -> str:
        """Return the hash of what a choice is valid for, the probe included: our code is not part of the image's id."""
        probe = Path(attention_probe.__file__).read_bytes()
        facts = "\n".join((self._image, gpu.name, gpu.driver, setting, hashlib.sha256(probe).hexdigest()))
        return hashlib.sha256(facts.encode()).hexdigest()[:32]
