"""Runs a model-free graph with ComfyUI alone and with this project, and compares the delivered files."""

import asyncio
import hashlib
import io
import re
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from storage.jobs.record import JobRecord
from tests.compare.engine import RealEngine
from tests.compare.files import INPUT, Listing
from tests.compare.graphs import Document, NamedGraph
from tests.compare.ours import Ours
from tests.compare.table import DIFFERENT, EQUAL, FAILED, UNSTABLE
from workers.comfy.engine import PromptQueue
from workers.comfy.process import EngineProcess
from workers.errors import EngineUnavailable
from workers.loop import WorkerLoop
from workflows.graph import parse_graph

DENIED = (
    r"(?i)loader\w*(model|checkpoint|ckpt|unet|clip|vae|lora|controlnet)|rembg|remove.?back|download|ollama|openai|gemini|gpt"
    r"|llm|florence|qwen|joy.?caption|deepseek|claude|huggingface|replicate|wd14|tagger|depth.?anything|dwpose|preprocessor"
    r"|segment|sam2?|yolo|detector|insight|reactor|face|whisper|tts|voice|upscalemodel|interpolat|rife|gmfss|film.?vfi|vfi"
)
"""Classes that load or download models by themselves or call a service, which object_info does not show."""
POLL_S = 0.1
STOPPING_S = 5.0


Files = Counter[tuple[str, str, str]]
"""Counts (output or temp with the subfolder, name, digest of the content)."""


@dataclass(frozen=True, slots=True)
class Ran:
    ok: bool
    files: Files
    reason: str = ""


def without_models(
    graph: NamedGraph, runs: frozenset[str], object_info: Mapping[str, Any], lists: Listing
) -> NamedGraph | None:
    """Return the part of the graph for those of these outputs that need no model; None if all of them do."""
    parsed = parse_graph(graph.document)
    of_models = {class_type for (class_type, _), folder in lists.items() if folder != INPUT}

    def is_heavy(node_id: str) -> bool:
        name = parsed.nodes[node_id].class_type
        return bool(name in of_models or re.search(DENIED, name) or object_info[name].get("api_node"))

    light = [output for output in runs if not any(map(is_heavy, parsed.ancestors({output})))]
    needed = parsed.ancestors(light)
    part = {node_id: node for node_id, node in graph.document.items() if node_id in needed}
    return NamedGraph(graph.name, part) if part else None


class Runs:
    """Runs on one engine, one after another, each limited to `limit_s`."""

    def __init__(self, host: EngineProcess, real: RealEngine, ours: Ours, worker: WorkerLoop, limit_s: int) -> None:
        self._host, self._real, self._ours, self._worker, self._limit_s = host, real, ours, worker, limit_s
        self._folders = host._spec.folders

    async def compare(self, graph: NamedGraph, media: Mapping[str, bytes]) -> tuple[str, list[str]]:
        alone = await self._alone(graph.document, media)
        if alone is None:
            return "", [f"ComfyUI took more than {self._limit_s} s"]
        ours = await self._by_worker(graph, media)
        if not alone.ok and not ours.ok:
            return FAILED, [alone.reason]
        if alone.ok != ours.ok:
            return DIFFERENT, [
                f"only ComfyUI failed: {alone.reason}" if ours.ok else f"only the job failed: {ours.reason}"
            ]
        differences = list(_differences(alone.files, ours.files))
        if not differences:
            return EQUAL, []
        again = await self._alone(graph.document, media)
        is_unstable = again is not None and any(_differences(alone.files, again.files))
        return UNSTABLE if is_unstable else DIFFERENT, differences

    async def _alone(self, document: Document, media: Mapping[str, bytes]) -> Ran | None:
        """Run the graph with ComfyUI alone; return None and restart the engine if it takes too long."""
        engine = self._host.engine
        while await engine.queue() != PromptQueue():  # noqa: ASYNC110  without the custom node, checked prompts run
            await asyncio.sleep(POLL_S)
        await engine.files.clean()
        await engine.free()  # a cached file is not written again
        with tempfile.TemporaryDirectory() as scratch:
            for position, (name, body) in enumerate(media.items()):
                path = Path(scratch) / str(position)
                path.write_bytes(body)
                await engine.files.stage(name, path)
        prompt_id = str(uuid.uuid4())
        if not await self._real.run(document, prompt_id):
            return Ran(ok=False, files=Counter(), reason="refused")
        try:
            async with asyncio.timeout(self._limit_s):
                while (history := await engine.history(prompt_id)) is None:  # noqa: ASYNC110  another process
                    await asyncio.sleep(POLL_S)
        except (TimeoutError, EngineUnavailable):
            await self._stop(prompt_id)
            return None
        if not history.completed:
            return Ran(ok=False, files=Counter(), reason=str(history.messages[-1])[:300])
        return Ran(ok=True, files=self._named(history.outputs))

    async def _stop(self, prompt_id: str) -> None:
        engine = self._host.engine
        try:
            async with asyncio.timeout(STOPPING_S):
                while prompt_id in await engine.queue():
                    await engine.interrupt(prompt_id)
                    await asyncio.sleep(POLL_S)
        except (TimeoutError, EngineUnavailable):
            await self._host.restart()

    def _named(self, outputs: Mapping[str, Any]) -> Files:
        """Return the files in ComfyUI's folders that its history names, under any key of the payload."""
        folders = self._folders
        found: Files = Counter()
        for value in _strings(outputs):
            filename, subfolder = value
            for folder in (folders.output, folders.temp):
                path = folder / subfolder / filename
                if filename and _is_file(path) and path.resolve().is_relative_to(folder.resolve()):
                    where = str(path.parent.relative_to(folder.parent))
                    found[where, _name(path.name), digest(path.read_bytes())] += 1
                    break
        return found

    async def _by_worker(self, graph: NamedGraph, media: Mapping[str, bytes]) -> Ran:
        await self._host.engine.free()  # a worker's cache has no results of ComfyUI's own run
        checked = await self._ours.check(graph, media, timeout_s=3 * self._limit_s)
        if checked.says != "accepted":
            return Ran(ok=False, files=Counter(), reason=f"not accepted again: {checked.reason}")
        record = await self._ours.run(self._worker)
        if record.status != "completed":
            return Ran(ok=False, files=Counter(), reason=str(record.error))
        return Ran(ok=True, files=await self._delivered(record))

    async def _delivered(self, record: JobRecord) -> Files:
        found: Files = Counter()
        for output in record.outputs:
            body = (await self._ours.objects.get(output.key)).body
            where = Path("temp" if output.is_preview else "output") / output.subfolder
            found[str(where), _name(output.filename), digest(body)] += 1
        return found


def _name(filename: str) -> str:
    """Remove the random letters from a preview's file name."""
    return re.sub(r"_temp_[a-z]{5}_", "_temp_", filename)


def _is_file(path: Path) -> bool:
    """Return False for a text that cannot be a file name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """Yield (filename, subfolder) for each value of a node's result that may name a file."""
    if isinstance(value, str):
        yield value, ""
    elif isinstance(value, Mapping) and isinstance(value.get("filename"), str):
        if value.get("type") != "input":
            yield value["filename"], str(value.get("subfolder") or "")
    elif isinstance(value, Mapping | Sequence):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(one)


def _differences(alone: Files, ours: Files) -> Iterator[str]:
    """Yield the differences, except for texts, which only this project delivers as files."""
    names = Counter(name for _, name, _ in alone)
    for (where, name, content), count in alone.items():
        if ours[where, name, content] >= count:
            continue
        alike = [other for other in ours if other[0] == where and other[2] == content]
        if names[name] > 1 and alike:
            continue  # one of two files with the same name is delivered renamed
        said = [other for other in ours if other[1] == name]
        yield f"{where}/{name}: {f'delivered as {said}' if said else f'not delivered, but {list(ours)[:4]}'}"


def digest(body: bytes) -> str:
    """Hash the pixels or samples of a picture, a video or sound, and the bytes of any other file."""
    hashed = hashlib.sha256()
    try:
        with Image.open(io.BytesIO(body)) as image:
            for frame in ImageSequence.Iterator(image):
                hashed.update(np.asarray(frame.convert("RGBA")).tobytes())
        return hashed.hexdigest()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        hashed = hashlib.sha256()
    try:
        with av.open(io.BytesIO(body), "r") as container:
            for decoded in container.decode():
                if isinstance(decoded, av.VideoFrame | av.AudioFrame):
                    hashed.update(decoded.to_ndarray().tobytes())
        return hashed.hexdigest()
    except (av.FFmpegError, ValueError):
        return hashlib.sha256(body).hexdigest()
