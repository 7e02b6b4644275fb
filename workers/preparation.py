"""What a job needs before its prompt is submitted: its graph, its secret and its input files.

A preparation may begin while the engine runs another job, before its own job is claimed. So it changes no record and no
folder of the engine's, and keeps the files where the engine cannot reach them. Its failure is raised to the attempt
that uses it.
"""

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.bucket.objects import ObjectStore, confirm_absence
from storage.bucket.records import retry_while_unavailable
from storage.concurrency import gather
from storage.errors import CheckUnavailable, FileRefused, ObjectNotFound, SealBroken, StorageError, StorageUnavailable
from storage.intake.media_check import MediaCheck, MediaLimits
from storage.jobs.models import Input, InputFile
from storage.jobs.store import StoredJob
from storage.stores import Stores
from workers.comfy.engine import EngineFiles
from workers.disk import writing
from workers.errors import BadInputFile, CheckFailed, PromptRefused, Repeat, StagingFailed, WorkerError
from workflows import strangers
from workflows.catalogue import Catalogue
from workflows.errors import WorkflowError
from workflows.graph import Graph, parse_graph

PARTNER_KEY = "api_key_comfy_org"
"""The name of the partner key in a prompt's extra_data, given by ComfyUI."""

Staged = Sequence[tuple[InputFile, Path]]


@dataclass(frozen=True, slots=True)
class PreparationPolicy:
    """`media_checks` is the number of input files examined at once; None means `default_probes`."""

    media_limits: MediaLimits = field(default_factory=MediaLimits)
    media_checks: int | None = None


@dataclass(frozen=True, slots=True)
class _Submitted:
    """What was submitted: the graph's document, the values to set in it, and the prompt's extra_data."""

    document: Any
    inputs: tuple[Input, ...]
    extra_data: dict[str, str]
    catalogue: Catalogue
    graph: Graph


class Preparation:
    """Reads a job at once and, from `begin_files` on, its files. `close` must be called in the end."""

    def __init__(
        self, stored: StoredJob, stores: Stores, files: EngineFiles, catalogue: Catalogue, policy: PreparationPolicy
    ) -> None:
        self._stored = stored
        self._record = stored.record
        self._stores = stores
        self._files = files
        self._policy = policy
        self._folder: Path | None = None
        self._reading = asyncio.create_task(self._read(catalogue))
        self._staging: asyncio.Task[Staged] | None = None

    def begin_files(self) -> None:
        """Begin to fetch the input files, unless that has begun."""
        if self._staging is None and self._record.input_files:
            self._staging = asyncio.create_task(self._stage())

    async def graph(self, catalogue: Catalogue) -> tuple[Graph, dict[str, str]]:
        """Return the submitted graph with the job's inputs, checked against this engine, and its extra_data."""
        found = await asyncio.shield(self._reading)
        if found.catalogue is catalogue:
            return found.graph, found.extra_data
        return self._checked(found.document, found.inputs, catalogue), found.extra_data  # the engine was restarted

    async def files(self) -> Staged:
        """Return the input files with their paths in a private folder, from where the engine's folders get them."""
        self.begin_files()
        return () if self._staging is None else await asyncio.shield(self._staging)

    @property
    def has_failed_by_chance(self) -> bool:
        """Whether it may succeed when it is tried again."""
        done = [task for task in (self._reading, self._staging) if task is not None and task.done()]
        failures = [task.exception() for task in done if not task.cancelled()]
        return any(
            isinstance(failure, StorageError)
            or (isinstance(failure, WorkerError) and failure.repeat is Repeat.AUTOMATIC)
            for failure in failures
        )

    async def close(self) -> None:
        """Stop the work that is left, and remove the files."""
        tasks = [self._reading] if self._staging is None else [self._reading, self._staging]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._folder is not None:
            folder, self._folder = self._folder, None
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _read(self, catalogue: Catalogue) -> _Submitted:
        record, jobs, workflow = self._record, self._stores.jobs, self._stored.workflow
        if workflow is None:  # it could not be read with the record
            workflow = await retry_while_unavailable(lambda: jobs.workflow(record.tenant, record.job_id))
        document, inputs = json.loads(workflow), await retry_while_unavailable(lambda: jobs.inputs(record))
        graph = self._checked(document, inputs, catalogue)
        return _Submitted(document, inputs, await self._extra_data(), catalogue, graph)

    def _checked(self, document: Any, inputs: tuple[Input, ...], catalogue: Catalogue) -> Graph:
        # The submission checked the graph too, but the engine may have changed or have been unknown then.
        try:
            graph = catalogue.apply(parse_graph(document), [(i.node, i.field, i.value) for i in inputs])
            if self._record.graphs == "strangers":
                strangers.check(graph, catalogue)
        except WorkflowError as error:
            raise PromptRefused(error.message, node_id=error.node_id) from error
        return graph

    async def _extra_data(self) -> dict[str, str]:
        if not self._record.has_partner_key:
            return {}
        try:
            keys, record = self._stores.partner_keys, self._record
            return {PARTNER_KEY: await retry_while_unavailable(lambda: keys.read(record.tenant, record.job_id))}
        except SealBroken as error:
            raise StagingFailed(str(error)) from error

    async def _stage(self) -> Staged:
        self._folder = self._files.private_folder()
        check = MediaCheck(self._policy.media_checks)
        return await fetch_inputs(
            self._record.input_files, self._stores.objects, self._folder, check, self._policy.media_limits
        )


async def fetch_inputs(
    files: Sequence[InputFile], objects: ObjectStore, folder: Path, check: MediaCheck, limits: MediaLimits
) -> Staged:
    """Fetch and check all input files concurrently in constant memory; return each with its path in the folder.

    Presigned uploads are checked here for the first time.
    """

    async def fetch(file: InputFile, path: Path) -> tuple[InputFile, Path]:
        try:
            # Repeated as writes are: while the bucket gives records and no files, a worker would otherwise use up the
            # attempts of all queued jobs within seconds.
            await retry_while_unavailable(lambda: _download(file, objects, path))
            await check.check(path, limits, data=True)
        except ObjectNotFound:
            raise StagingFailed(f"the bytes of {file.name} are no longer in the bucket") from None
        except FileRefused as error:
            raise BadInputFile(f"{file.name}: {error}") from error
        except CheckUnavailable as error:
            raise CheckFailed(f"{file.name}: {error}") from error
        return file, path

    return await gather(*(fetch(file, folder / f"{position:03d}") for position, file in enumerate(files)))


async def _download(file: InputFile, objects: ObjectStore, path: Path) -> None:
    try:
        with writing(f"the input {file.name!r}"):
            await objects.download_file(file.key, path)
    except ObjectNotFound:
        await confirm_absence(objects, file.key)
        raise
    # A proxy that answers in the bucket's place, or cuts the answer, would make the file look like a broken one.
    size = (await asyncio.to_thread(path.stat)).st_size
    if size != file.size_bytes:
        raise StorageUnavailable(f"{file.name} came with {size} bytes instead of {file.size_bytes}")
