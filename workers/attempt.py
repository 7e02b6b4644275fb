"""One attempt at one job, as far as the engine goes: inputs in, prompt run, outputs on their way out."""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from storage import keys
from storage.jobs import JobStore
from storage.objects import ObjectStore
from storage.record import JobRecord
from workers.comfy.engine import ComfyEngine, Prompt
from workers.comfy.execution import Execution, ExecutionPolicy
from workers.errors import EngineError, JobCancelled, OutOfMemory, PromptRefused, WorkerError
from workers.staging import stage
from workers.uploads import OutputUploads
from workflows.catalogue import Catalogue
from workflows.errors import WorkflowError
from workflows.execution import for_execution
from workflows.graph import Graph, parse_graph
from workflows.messages import Executed, Message, Preview
from workflows.progress import ProgressModel

SOCKET_OUTPUT_CLASS = "SaveImageWebsocket"
"""ComfyUI's node that sends its pictures by the socket instead of saving them."""


@dataclass(frozen=True, slots=True)
class Workbench:
    """What an attempt works with."""

    jobs: JobStore
    objects: ObjectStore
    engine: ComfyEngine
    catalogue: Catalogue
    policy: ExecutionPolicy


class Attempt:
    """Set `on_progress` before `perform`: it is called whenever the progress changed.

    `stop` may be called at any time, from the same loop. `engine_suspect` afterwards tells that the engine must be
    restarted before the next job.
    """

    def __init__(
        self,
        bench: Workbench,
        record: JobRecord,
        uploads: OutputUploads,
    ) -> None:
        self.engine_suspect = False
        self.on_progress: Callable[[ProgressModel], None] = lambda _: None
        self._bench = bench
        self._record = record
        self._uploads = uploads
        self._execution: Execution | None = None
        self._reason: WorkerError | None = None
        self._pictures = 0

    def stop(self, reason: WorkerError) -> None:
        """Interrupt what runs; the attempt then raises `reason`. The first reason counts."""
        if self._reason is None:
            self._reason = reason
            if self._execution is not None:
                self._execution.cancel()

    async def perform(self) -> None:
        """Raises `WorkerError`; outputs that were finished before are with `uploads`."""
        await self._bench.engine.clean()
        await stage(self._record.media, self._bench.objects, self._bench.engine)
        graph = await self._graph()
        token = f"{self._record.job_id}-{self._record.attempt}"
        document = for_execution(graph, self._bench.catalogue, token)
        await self._bench.objects.put(
            keys.prompt(self._record.tenant, self._record.job_id), json.dumps(document).encode()
        )
        if self._reason is not None:
            raise self._reason
        prompt = Prompt(prompt_id=str(uuid.uuid4()), client_id=str(uuid.uuid4()), graph=document)
        self._execution = Execution(self._bench.engine, prompt, self._bench.policy)
        try:
            await self._follow(graph, self._execution)
        except JobCancelled as cancelled:
            raise self._because(cancelled) from cancelled
        except EngineError as fault:
            self.engine_suspect = True
            raise self._because(fault) from fault
        except OutOfMemory:
            self.engine_suspect = True
            raise

    def _because(self, seen: WorkerError) -> WorkerError:
        """Why it was stopped, if it was; else what was seen."""
        return self._reason or seen

    async def _graph(self) -> Graph:
        """The submitted graph with the job's inputs. It was checked at submission; the engine may have changed."""
        document = json.loads(await self._bench.jobs.workflow(self._record.tenant, self._record.job_id))
        try:
            graph = parse_graph(document)
            return self._bench.catalogue.apply(graph, [(i.node, i.field, i.value) for i in self._record.inputs])
        except WorkflowError as error:
            raise PromptRefused(error.message, node_id=error.node_id) from error

    async def _follow(self, graph: Graph, execution: Execution) -> None:
        model = ProgressModel.start(graph.ancestors(self._bench.catalogue.output_nodes(graph)))
        self.on_progress(model)
        async for message in execution:
            self._collect(message, graph, model)
            changed = model.reduce(message)
            if changed is not model or isinstance(message, Executed):
                model = changed
                self.on_progress(model)

    def _collect(self, message: Message, graph: Graph, model: ProgressModel) -> None:
        match message:
            case Executed():
                self._uploads.add(message)
            case Preview(image_type=image_type, data=data, node_id=node_id):
                source = node_id or model.current_node or ""
                if source in graph.nodes and graph.nodes[source].class_type == SOCKET_OUTPUT_CLASS:
                    self._pictures += 1
                    name = f"websocket_{source}_{self._pictures:04d}.{image_type}"
                    self._uploads.add_picture(source, name, data)
