"""Uploads outputs to the bucket while later nodes, and the next jobs, still run.

Several files are uploaded at once, each while it is hashed and measured.

An output is first fetched from the engine into a folder of the job's own, so the engine's folders may be emptied as
soon as every output was fetched. Values and pictures that come in messages are written there too, before the next
message is taken, so that none of them waits in memory for the bucket. Outputs are listed in the order in which their
nodes finished, then in each node's own order.
"""

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.bucket.records import retry_while_unavailable
from storage.concurrency import gather
from storage.errors import FileChanged, StorageError
from storage.jobs.models import Output, OutputType
from storage.jobs.record import JobRecord
from workers.comfy.engine import ComfyEngine, FileRef
from workers.disk import writing
from workers.errors import EngineError, OutputFailed, StorageFailed
from workers.outputs.media import Facts, content_type_of, examine
from workers.outputs.names import DistinctNames, safe_folder
from workers.outputs.payload import InlineOutput, names_in, outputs_of, strict_text, type_of
from workflows.graph import Graph
from workflows.messages import Executed, Message, Preview

T = TypeVar("T")

SOCKET_OUTPUT_CLASS = "SaveImageWebsocket"
"""ComfyUI's node that sends its images over the socket instead of saving them."""

_CHANGED = (
    "{filename} was changed while it was stored: it had {size} bytes after its node had reported it, and has another "
    "size now. A node must write a file completely before it reports it"
)
_EXAMINING = ThreadPoolExecutor(8, thread_name_prefix="outputs")
"""Threads of their own, since an output may be slow to read and everything else in the worker shares the other ones."""


@dataclass(frozen=True, slots=True)
class UploadPolicy:
    """`parallel` is the number of concurrent uploads. The record repeats texts of at most `inline_text_bytes` each, the
    first ones up to `all_inline_text_bytes` in total."""

    parallel: int = 8
    inline_text_bytes: int = 16 * 1024
    all_inline_text_bytes: int = 256 * 1024
    max_outputs: int = 1_000
    """Maximum outputs of one job, since its record lists them."""
    max_output_bytes: int = 20 * 1024**3
    """Maximum size of one file, holes included: a sparse file is stored, and paid for, at its full size."""


@dataclass(frozen=True, slots=True)
class _Named:
    """The name and position of an output, fixed when its node reports it, since uploads end in any order."""

    position: int
    filename: str
    subfolder: str = ""
    is_preview: bool = False


@dataclass(frozen=True, slots=True)
class _Value:
    """What is known of a value whose bytes are in a file. `text` is repeated in the record."""

    type: OutputType
    content_type: str
    text: str | None


class OutputUploads:
    """The outputs of the record's current attempt, under keys distinct from every other attempt's."""

    def __init__(self, engine: ComfyEngine, objects: ObjectStore, record: JobRecord, policy: UploadPolicy) -> None:
        self._engine = engine
        self._objects = objects
        self._record = record
        self._policy = policy
        self._fetching = asyncio.Semaphore(policy.parallel)
        self._storing = asyncio.Semaphore(policy.parallel)
        self._folder: Path | None = None  # until the first output
        self._fetches: list[asyncio.Task[Path]] = []
        self._uploads: list[asyncio.Task[Output]] = []
        self._by_file: dict[FileRef, asyncio.Task[Output]] = {}
        self._names = DistinctNames()
        self._pictures: Counter[str] = Counter()
        self._inline_bytes_left = policy.all_inline_text_bytes

    async def collect(self, message: Message, graph: Graph, current_node: str | None) -> None:
        """Start the uploads of the outputs that a message reports. Raises `OutputFailed` above the limits."""
        match message:
            case Executed(node=node_id, display_node=display_node):
                if await self.add(message):
                    # ComfyUI reports files of a cached node again, although they were deleted with their job. Nodes of
                    # a class that has shown files are therefore made distinct in later prompts (`for_execution`).
                    shown = graph.nodes.get(node_id) or graph.nodes.get(display_node)
                    self._engine.showing |= {shown.class_type} if shown is not None else set()
            case Preview(image_type=image_type, data=data, node_id=node_id):
                source = node_id or current_node or ""
                if source in graph.nodes and graph.nodes[source].class_type == SOCKET_OUTPUT_CLASS:
                    self._pictures[source] += 1
                    name = f"websocket_{source}_{self._pictures[source]:04d}.{image_type}"
                    await self._add_inline(source, InlineOutput(name, "image", f"image/{image_type}", data))

    async def add(self, executed: Executed) -> bool:
        """Start the uploads of a node's outputs and return whether they include files."""
        # In threads, since a payload may have a million values.
        names = await asyncio.to_thread(names_in, executed.output)
        files = await self._engine.files.find(names) if names else {}
        has_files = False
        for found in await asyncio.to_thread(self._outputs_of, executed, files):
            if isinstance(found, FileRef):
                self._add_file(executed.node, found)
                has_files = True
            else:
                await self._add_inline(executed.node, found)
        return has_files

    def _outputs_of(self, executed: Executed, files: Mapping[str, FileRef]) -> list[FileRef | InlineOutput]:
        # One more than a job may have is enough to fail it.
        return list(islice(outputs_of(executed.node, executed.output, files), self._policy.max_outputs + 1))

    def finished(self) -> tuple[Output, ...]:
        """Return the outputs stored so far, in order."""
        return tuple(
            task.result() for task in self._uploads if task.done() and not task.cancelled() and not task.exception()
        )

    async def fetched(self) -> None:
        """Wait until no file is needed from the engine any more. A failure is raised by `all`."""
        if self._fetches:
            await asyncio.wait(self._fetches)

    async def stop_fetching(self) -> None:
        """Give up the files that were not fetched yet, so that their folders may be emptied."""
        late = [fetch for fetch in self._fetches if not fetch.done()]
        for fetch in late:
            fetch.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    @property
    def has_lost_engine(self) -> bool:
        """Whether a file could not be fetched because of the engine."""
        done = [fetch for fetch in self._fetches if fetch.done() and not fetch.cancelled()]
        return any(isinstance(fetch.exception(), EngineError) for fetch in done)

    async def all(self) -> tuple[Output, ...]:
        """Wait for every upload; raise the first failure after all have ended."""
        return tuple(await gather(*self._uploads))

    async def close(self) -> None:
        """Stop the uploads that still run and remove their files."""
        tasks = [*self._uploads, *self._fetches]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _add_file(self, node_id: str, ref: FileRef) -> None:
        """Start the upload of a file, or list it once more."""
        self._check_number()
        # Identical save nodes report the same file: it is uploaded once and listed for each node.
        shared = self._by_file.get(ref)
        if shared is None:
            fetch = asyncio.create_task(self._fetch(ref))
            self._fetches.append(fetch)
            self._by_file[ref] = self._start(self._file(node_id, ref, self._named(ref), fetch))
        else:
            self._start(_listed_for(node_id, shared))

    async def _add_inline(self, node_id: str, found: InlineOutput) -> None:
        """Write a value to the private folder and start its upload. A failure to write is raised by `all`."""
        self._check_number()
        named = _Named(len(self._uploads), self._names.take(found.filename))
        written = asyncio.create_task(self._written(found, named))
        self._fetches.append(written)
        value = _Value(found.type, found.content_type, self._repeated(found))
        self._start(self._inline(node_id, value, named, written))
        await asyncio.wait({written})

    def _repeated(self, found: InlineOutput) -> str | None:
        """Return the text if the record repeats it; if so, it uses up a part of the total."""
        # Every GET, list and event reads whole records, so the texts in one are bounded.
        longest = min(self._policy.inline_text_bytes, self._inline_bytes_left)
        if not isinstance(found.value, str) or len(found.value) > longest:
            return None
        text = strict_text(found.value)
        size = len(text.encode())
        if size > longest:
            return None
        self._inline_bytes_left -= size
        return text

    def _named(self, ref: FileRef) -> _Named:
        subfolder = safe_folder(ref.subfolder)
        filename = self._names.take(ref.filename, subfolder or ref.type)
        return _Named(len(self._uploads), filename, subfolder, is_preview=ref.type == "temp")

    def _check_number(self) -> None:
        if len(self._uploads) >= self._policy.max_outputs:
            raise OutputFailed(f"more than {self._policy.max_outputs} outputs")

    def _start(self, upload: Coroutine[Any, Any, Output]) -> asyncio.Task[Output]:
        task = asyncio.create_task(upload)
        self._uploads.append(task)
        return task

    async def _fetch(self, ref: FileRef) -> Path:
        async with self._fetching:
            return await self._engine.files.fetch(ref, self._own_folder(), max_bytes=self._policy.max_output_bytes)

    async def _file(self, node_id: str, ref: FileRef, named: _Named, fetch: asyncio.Task[Path]) -> Output:
        path, most = await fetch, self._policy.max_output_bytes
        async with self._storing:
            size = path.stat().st_size
            if size > most:
                raise OutputFailed(f"{ref.filename!r} has {size} bytes, at most {most} are allowed", node_id=node_id)
            return await self._store(node_id, path, named, size)

    async def _written(self, found: InlineOutput, named: _Named) -> Path:
        path = self._own_folder() / f"inline-{named.position}"
        with writing(f"the output {named.filename!r}"):
            await asyncio.to_thread(_write, path, found)
        return path

    async def _inline(self, node_id: str, value: _Value, named: _Named, written: asyncio.Task[Path]) -> Output:
        path = await written
        async with self._storing:
            size = path.stat().st_size
            output = await self._store(node_id, path, named, size, content_type=value.content_type)
        path.unlink(missing_ok=True)  # a job may have many, and the disk is the engine's too
        return output.model_copy(update={"type": value.type, "text": value.text})

    def _own_folder(self) -> Path:
        """Return the folder of these outputs, which `close` removes. Raises `WorkerDiskFull`."""
        # Not the system's folder for temporary files, which may be on a disk that `WorkerDisk` does not examine.
        if self._folder is None:
            self._folder = self._engine.files.private_folder()
        return self._folder

    async def _examined_and_sent(self, key: str, path: Path, filename: str, content_type: str, size: int) -> Facts:
        """Upload a file while it is hashed and measured, and return its facts."""
        uploading = asyncio.create_task(
            retry_while_unavailable(lambda: self._objects.upload_file(key, path, content_type=content_type, size=size))
        )
        try:
            facts = await _examined(path, filename, content_type, size)
            await uploading
        finally:
            uploading.cancel()
            await asyncio.gather(uploading, return_exceptions=True)
        return facts

    async def _store(
        self, node_id: str, path: Path, named: _Named, size: int, *, content_type: str | None = None
    ) -> Output:
        """Upload a file of this size and return its output. `content_type` overrides the type detected from its bytes.

        Raises `OutputFailed` for a file whose size changes meanwhile, of which no byte beyond `size` is read.
        """
        filename = named.filename
        record = self._record
        key = keys.output(record.tenant, record.job_id, record.attempt, named.position, filename)
        try:
            if content_type is None:
                content_type = await _in_thread(content_type_of, path, filename)
            facts = await self._examined_and_sent(key, path, filename, content_type, size)
            is_changed = path.stat().st_size != size
        except FileChanged:
            is_changed = True
        except OSError as error:
            is_changed = _size_of(path) not in (None, size)
            if not is_changed:
                raise OutputFailed(f"{filename} could not be read: {error.strerror}", node_id=node_id) from error
        except StorageError as error:
            raise StorageFailed(f"{filename} could not be stored: {error}", node_id=node_id) from error
        if is_changed:
            raise OutputFailed(_CHANGED.format(filename=filename, size=size), node_id=node_id)
        return Output(
            filename=filename,
            subfolder=named.subfolder,
            type=type_of(filename, facts.content_type),
            is_preview=named.is_preview,
            node_id=node_id,
            key=key,
            **asdict(facts),
        )


async def _in_thread(call: Callable[..., T], *arguments: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(_EXAMINING, partial(call, *arguments))


async def _examined(path: Path, filename: str, content_type: str, size: int) -> Facts:
    stop = threading.Event()
    try:
        return await _in_thread(partial(examine, path, filename, content_type, size=size, stop=stop))
    finally:
        stop.set()  # a thread cannot be cancelled


def _write(path: Path, found: InlineOutput) -> None:
    with path.open("wb") as file:
        file.writelines(found.pieces())


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


async def _listed_for(node_id: str, shared: asyncio.Task[Output]) -> Output:
    # Shielded, since a cancellation of this output must not cancel the upload of the other node's.
    return (await asyncio.shield(shared)).model_copy(update={"node_id": node_id})
