"""Reads the model files that the next job needs into the page cache, while ComfyUI imports its packages.

A container starts because a job is queued, so its files are known before the engine can open them. Loading them takes
longer than the import; running both at once saves the shorter of the two. Failures have no effect.
"""

import asyncio
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.errors import StorageError
from storage.jobs.queue import JobQueue
from storage.jobs.store import JobStore

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.5
"""Share of the free memory that is used; ComfyUI needs the rest for the loaded models."""
AT_ONCE = 4
PIECE_BYTES = 8 * 1024**2
SUFFIXES = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin", ".onnx")
_CGROUP = Path("/sys/fs/cgroup")
_MEMORY = Path("/proc/meminfo")


class ReadAhead:
    """`folders` contain a folder per kind of model, like ComfyUI's `models`. `max_bytes` None means a share of the free
    memory."""

    def __init__(self, folders: Sequence[Path], *, max_bytes: int | None = None) -> None:
        self._folders = folders
        self._max_bytes = max_bytes
        self._stopped = threading.Event()

    async def run(self, values: Iterable[Any]) -> int:
        """Read the files that these values name, in order, and return the number of bytes."""
        began = asyncio.get_running_loop().time()
        files = await asyncio.to_thread(self._chosen, list(values))
        reading = asyncio.Semaphore(AT_ONCE)

        async def read(path: Path, size: int) -> int:
            async with reading:
                return await asyncio.to_thread(self._read, path, size)

        try:
            total = sum(await asyncio.gather(*(read(path, size) for path, size in files.items())))
        finally:
            # Threads cannot be cancelled: they stop after the piece that they read.
            self._stopped.set()
        seconds = round(asyncio.get_running_loop().time() - began, 3)
        if files:
            logger.info("models read ahead", extra={"files": len(files), "bytes": total, "seconds": seconds})
        return total

    def _chosen(self, values: Sequence[Any]) -> dict[Path, int]:
        """Return the files that fit in the memory; a smaller file after one that does not fit may be included."""
        left = round(MEMORY_SHARE * free_memory()) if self._max_bytes is None else self._max_bytes
        chosen = {}
        for path, size in model_files(values, self._folders).items():
            if size <= left:
                chosen[path] = size
                left -= size
        return chosen

    def _read(self, path: Path, size: int) -> int:
        piece = bytearray(PIECE_BYTES)  # reused, since only the page cache is to be filled
        total = 0
        try:
            with path.open("rb", buffering=0) as file:
                while total < size and not self._stopped.is_set() and (read := file.readinto(piece)):
                    total += read
        except OSError as error:
            logger.info("%s was not read ahead: %s", path.name, error)
        return total


def model_files(values: Iterable[Any], folders: Sequence[Path]) -> dict[Path, int]:
    """Return the model files that the values name, with their sizes, in the order of the values."""
    found: dict[Path, int] = {}
    names = dict.fromkeys(value for value in values if isinstance(value, str) and value.endswith(SUFFIXES))
    kinds = [Path(entry) for folder in folders if folder.is_dir() for entry in os.scandir(folder) if entry.is_dir()]
    for name in names:
        # The values are a client's, so only files in the models' folders are read.
        if Path(name).is_absolute() or ".." in Path(name).parts:
            continue
        for path in (kind / name for kind in kinds):
            if path.is_file():
                found.setdefault(path.resolve(), path.stat().st_size)  # links to one file count once
    return found


def free_memory() -> int:
    """Return the free memory of this container, or of the machine if it has no limit; 0 if unknown."""
    try:
        free = 1024 * next(
            int(line.split()[1]) for line in _MEMORY.read_text().splitlines() if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration):
        return 0
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        return free if limit == "max" else min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        return free


def graph_values(graph: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the input values of a graph's nodes in API format."""
    for node in graph.values():
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict):
            yield from node["inputs"].values()


async def expected_values(queue: JobQueue, jobs: JobStore, pool: str) -> list[Any]:
    """Return the values of the job that this pool's next worker probably claims; empty if none is queued."""
    try:
        record = await queue.peek(pool)
        if record is None:
            return []
        graph = json.loads(await jobs.workflow(record.tenant, record.job_id))
        given = [one.value for one in await jobs.inputs(record)]
    except (StorageError, ValueError) as error:
        logger.info("which models are needed first is not known: %s", error)
        return []
    return [*given, *graph_values(graph)] if isinstance(graph, dict) else given
