"""The engine's part of one attempt: stages the inputs, runs the prompt and starts the uploads of the outputs."""

import asyncio
import json
import logging
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from storage.access.partner_keys import PartnerKeyStore
from storage.bucket.objects import ObjectStore
from storage.errors import SealBroken
from storage.jobs.store import JobStore, StoredJob
from workers.comfy.engine import ComfyEngine, Prompt
from workers.comfy.execution import Execution, ExecutionPolicy
from workers.comfy.refusals import not_run
from workers.errors import EngineError, JobCancelled, OutOfMemory, PromptRefused, StagingFailed, WorkerError
from workers.outputs.uploads import OutputUploads
from workers.staging import StagingPolicy, stage
from workflows import strangers
from workflows.catalogue import Catalogue
from workflows.errors import WorkflowError
from workflows.execution import for_execution
from workflows.graph import Graph, parse_graph
from workflows.messages import Executed, Message, Preview
from workflows.progress import ProgressModel

logger = logging.getLogger(__name__)

PARTNER_KEY = "api_key_comfy_org"
"""The name of the partner key in a prompt's extra_data, given by ComfyUI."""
SOCKET_OUTPUT_CLASS = "SaveImageWebsocket"
"""ComfyUI's node that sends its images over the socket instead of saving them."""
LAST_UPLOADS_S = 5.0
"""Seconds that uploads may still take after a stop, since the GPU is held meanwhile."""


@dataclass(frozen=True, slots=True)
class Workbench:
    """The dependencies of an attempt."""

    jobs: JobStore
    objects: ObjectStore
    partner_keys: PartnerKeyStore
    engine: ComfyEngine
    catalogue: Catalogue
    policy: ExecutionPolicy
    staging: StagingPolicy


@dataclass(frozen=True, slots=True)
class _Prepared:
    """`graph` is the submitted graph with the job's inputs; the prompt's graph is derived from it for execution."""

    graph: Graph
    prompt: Prompt


class Attempt:
    """`progress` is None until the prompt is submitted.

    `stop` may be called at any time, from the same event loop. If `engine_suspect` is true afterwards, the engine must
    be restarted before the next job.
    """

    def __init__(self, bench: Workbench, claimed: StoredJob, uploads: OutputUploads) -> None:
        self.engine_suspect = False
        self.progress: ProgressModel | None = None
        self._bench = bench
        self._record = claimed.record
        self._workflow = claimed.workflow
        self._uploads = uploads
        self._preparing: asyncio.Task[_Prepared] | None = None
        self._execution: Execution | None = None
        self._reason: WorkerError | None = None
        self._stopped = asyncio.Event()
        self._pictures: Counter[str] = Counter()

    @property
    def node_errors(self) -> Mapping[str, Any] | None:
        """Why the engine runs only some of the outputs; None until it has responded."""
        return None if self._execution is None else self._execution.node_errors

    def stop(self, reason: WorkerError) -> None:
        """Interrupt the attempt, which then raises `reason`. The first reason counts."""
        if self._reason is not None:
            return
        self._reason = reason
        self._stopped.set()
        if self._execution is not None:
            self._execution.cancel()
        elif self._preparing is not None:
            self._preparing.cancel()

    async def perform(self) -> None:
        """Run the prompt. Raises `WorkerError`; outputs that were finished before are in `uploads`."""
        try:
            prepared = await self._prepared()
            self._execution = Execution(self._bench.engine, prepared.prompt, self._bench.policy)
            await self._follow(prepared.graph, self._execution)
        except JobCancelled as cancelled:
            raise self._because(cancelled) from cancelled
        except EngineError as fault:
            self.engine_suspect = True
            raise self._because(fault) from fault
        except OutOfMemory:
            self.engine_suspect = True  # the GPU's memory may stay fragmented or occupied
            raise
        finally:
            if self._execution is not None and self._execution.was_abandoned:
                self.engine_suspect = True

    async def store_outputs(self) -> None:
        """Wait for every upload and raise the first failure.

        After `stop` the uploads have `LAST_UPLOADS_S` seconds; then the reason is raised, and finished ones are kept.
        """
        storing = asyncio.create_task(self._uploads.all())
        stopping = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait({storing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._reason is None:
                await storing
                return
            await asyncio.wait({storing}, timeout=LAST_UPLOADS_S)
            raise self._reason
        finally:
            stopping.cancel()
            storing.cancel()
            await asyncio.gather(storing, stopping, return_exceptions=True)

    def _because(self, seen: WorkerError) -> WorkerError:
        """Return the reason of `stop` if it was called, else the error itself."""
        return self._reason or seen

    async def _prepared(self) -> _Prepared:
        """Return the staged prompt. Raises the reason at once if the attempt is stopped meanwhile."""
        # A task, so that `stop` can cancel it: the download of large inputs takes long.
        self._preparing = asyncio.create_task(self._prepare())
        await asyncio.gather(self._preparing, return_exceptions=True)
        if self._reason is not None:
            raise self._reason
        return self._preparing.result()

    async def _prepare(self) -> _Prepared:
        record, bench = self._record, self._bench
        # The files are staged while the graph is read and checked.
        staging = asyncio.create_task(self._stage())
        try:
            graph, extra_data = await self._graph(), await self._extra_data()
            await staging
        finally:
            staging.cancel()
            await asyncio.gather(staging, return_exceptions=True)
        files = {medium.name: medium.key for medium in record.media}
        token = f"{record.job_id}-{record.attempt}"
        document = for_execution(graph, bench.catalogue, token, bench.engine.showing, files)
        prompt = Prompt(str(uuid.uuid4()), str(uuid.uuid4()), document, extra_data, record.is_strict)
        return _Prepared(graph, prompt)

    async def _stage(self) -> None:
        bench = self._bench
        await bench.engine.clean()
        await stage(self._record.media, bench.objects, bench.engine, bench.staging)

    async def _extra_data(self) -> dict[str, str]:
        if not self._record.has_partner_key:
            return {}
        try:
            return {PARTNER_KEY: await self._bench.partner_keys.read(self._record.tenant, self._record.job_id)}
        except SealBroken as error:
            raise StagingFailed(str(error)) from error

    async def _graph(self) -> Graph:
        """Return the submitted graph with the job's inputs, checked against this engine."""
        workflow = self._workflow
        if workflow is None:  # it could not be read with the claim
            workflow = await self._bench.jobs.workflow(self._record.tenant, self._record.job_id)
        document = json.loads(workflow)
        inputs = await self._bench.jobs.inputs(self._record)
        # The submission checked the graph too, but the engine may have changed or have been unknown then.
        try:
            graph = parse_graph(document)
            catalogue = self._bench.catalogue
            applied = catalogue.apply(graph, [(i.node, i.field, i.value) for i in inputs])
            if self._record.graphs == "strangers":
                strangers.check(applied, catalogue)
        except WorkflowError as error:
            raise PromptRefused(error.message, node_id=error.node_id) from error
        return applied

    async def _follow(self, graph: Graph, execution: Execution) -> None:
        outputs = self._bench.catalogue.output_nodes(graph)
        self.progress = ProgressModel.start(graph.ancestors(outputs))
        has_begun = False
        async with aclosing(aiter(execution)) as messages:
            async for message in messages:
                if not has_begun:
                    # `node_errors` is known from the first message on: outputs that do not run do not count.
                    has_begun = True
                    outputs -= not_run(execution.node_errors or {}, self._record.warnings)
                    self.progress = ProgressModel.start(graph.ancestors(outputs))
                await self._collect(message, graph, self.progress.current_node)
                self.progress = self.progress.reduce(message)

    async def _collect(self, message: Message, graph: Graph, current_node: str | None) -> None:
        match message:
            case Executed(node=node_id, display_node=display_node):
                if await self._uploads.add(message):
                    # ComfyUI reports files of a cached node again, although they were deleted with their job. Nodes of
                    # a class that has shown files are therefore made distinct in later prompts (`for_execution`).
                    shown = graph.nodes.get(node_id) or graph.nodes.get(display_node)
                    self._bench.engine.showing |= {shown.class_type} if shown is not None else set()
            case Preview(image_type=image_type, data=data, node_id=node_id):
                source = node_id or current_node or ""
                if source in graph.nodes and graph.nodes[source].class_type == SOCKET_OUTPUT_CLASS:
                    self._pictures[source] += 1
                    name = f"websocket_{source}_{self._pictures[source]:04d}.{image_type}"
                    self._uploads.add_picture(source, name, data)
