"""Runs prompts one after another in a separate thread, and sends the client ComfyUI's messages."""

import logging
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from workers.lite.clients import Clients
from workers.lite.folders import Folders
from workers.lite.node import Interrupted, NodeClass, Result, is_link
from workers.lite.plan import DependencyCycleError, NodeNotFoundError, Plan, plan
from workers.lite.prompts import Prompts, QueuedPrompt, Record, node_meta

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cached:
    """A result and its node, whose name the history shows for every node of equal signature."""

    result: Result
    node_id: str


class Executor:
    """`cache` has the results of the last prompt by signature, like ComfyUI's default cache."""

    def __init__(self, classes: Mapping[str, NodeClass], folders: Folders, clients: Clients, *, metadata: bool) -> None:
        self.classes = classes
        self.folders = folders
        self.clients = clients
        self.metadata = metadata
        self.interrupted = threading.Event()
        self.forget = threading.Event()
        """Set to empty the cache before the next prompt."""
        self.cache: dict[str, Cached] = {}
        self.current: tuple[str, str | None] | None = None
        """The running node and its client, for a socket that connects while it runs."""

    def run_forever(self, prompts: Prompts) -> None:
        while True:
            prompt = prompts.take()
            self.interrupted.clear()
            if self.forget.is_set():
                self.forget.clear()
                self.cache = {}
            logger.info("got prompt %s", prompt.prompt_id)
            record = PromptRun(self, prompt).run()
            # Before the message of the end, at which clients read the history.
            prompts.finish(record)
            self.current = None
            if prompt.client_id is not None:
                self.clients.send("executing", {"node": None, "prompt_id": prompt.prompt_id}, prompt.client_id)


class PromptRun:
    """One prompt, from execution_start to its history."""

    def __init__(self, executor: Executor, prompt: QueuedPrompt) -> None:
        self._executor = executor
        self._prompt = prompt
        self._record = Record(prompt)
        self._results: dict[str, Cached] = {}
        self._shared: dict[str, Cached] = {}
        """Results by signature, so that only the first of equal nodes runs."""
        self._progress: dict[str, dict[str, Any]] = {}
        self._executed: list[str] = []
        self._plan = Plan((), {})

    def run(self) -> Record:
        self._note("execution_start", {})
        graph, executor = self._prompt.graph, self._executor
        try:
            self._plan = plan(graph, self._prompt.outputs, executor.classes, executor.folders)
        except (NodeNotFoundError, DependencyCycleError) as error:
            node_id = self._prompt.outputs[0]
            about = {"node_id": node_id, "node_type": graph[node_id]["class_type"], "executed": []}
            self._note("execution_error", about | failure(error, {}, self._prompt.outputs))
            return self._record
        for node_id in self._plan.order:
            cached = self._executor.cache.get(self._plan.signatures[node_id])
            if cached is not None:
                self._results[node_id] = cached
        self._note("execution_cached", {"nodes": list(self._results)})
        try:
            for node_id in self._plan.order:
                self._run_node(node_id)
        except Interrupted:
            self._note("execution_interrupted", self._culprit())
        except Exception as error:
            self._note("execution_error", self._culprit() | failure(error, self._values_now(), self._plan.order))
        else:
            self._record.succeeded = True
            self._note("execution_success", {})
        self._executor.cache = {self._plan.signatures[node_id]: cached for node_id, cached in self._results.items()}
        return self._record

    def _run_node(self, node_id: str) -> None:
        cached = self._results.get(node_id) or self._shared.get(self._plan.signatures[node_id])
        if cached is None:
            self._execute(node_id)
            return
        self._results[node_id] = cached
        if cached.result.ui:
            self._send_executed(node_id, cached)
            self._set_progress(node_id, "finished", 1, 1)

    def _execute(self, node_id: str) -> None:
        self._executor.current = (node_id, self._prompt.client_id)
        self._set_progress(node_id, "running", 0.0, 1.0)
        self._send("executing", {"node": node_id, "display_node": node_id})
        if self._executor.interrupted.is_set():
            raise Interrupted
        node_class = self._executor.classes[self._prompt.graph[node_id]["class_type"]]
        result = node_class.execute(NodeRun(self, node_id), **self._values(node_id))
        self._results[node_id] = self._shared[self._plan.signatures[node_id]] = Cached(result, node_id)
        self._executed.append(node_id)
        if result.ui:
            self._send_executed(node_id, self._results[node_id])
        last = self._progress[node_id]
        self._set_progress(node_id, "finished", last["max"], last["max"])

    def _values(self, node_id: str) -> dict[str, Any]:
        """Return every link's value, declared or not, and the declared literals; all of them if the class takes any."""
        node = self._prompt.graph[node_id]
        about = self._executor.classes[node["class_type"]]
        declared = {**about.inputs(), **about.parts(node["inputs"])}
        values: dict[str, Any] = {}
        for name, value in node["inputs"].items():
            if is_link(value):
                values[name.replace(".", "_")] = self._results[value[0]].result.values[value[1]]
            elif name in declared or about.open_inputs:
                values[name.replace(".", "_")] = value
        return values

    def _values_now(self) -> dict[str, Any]:
        return self._values(self._executor.current[0]) if self._executor.current else {}

    def _culprit(self) -> dict[str, Any]:
        node_id = (self._executor.current or ("", None))[0]
        node_type = self._prompt.graph.get(node_id, {}).get("class_type", "")
        return {"node_id": node_id, "node_type": node_type, "executed": list(self._executed)}

    def _send_executed(self, node_id: str, shown: Cached) -> None:
        ui = dict(shown.result.ui or {})
        self._record.outputs[node_id] = ui
        self._record.meta[node_id] = node_meta(shown.node_id)
        self._send("executed", {"node": node_id, "display_node": node_id, "output": ui})

    def _set_progress(self, node_id: str, state: str, value: float, maximum: float) -> None:
        self._progress[node_id] = {
            "value": value,
            "max": maximum,
            "state": state,
            "node_id": node_id,
            "prompt_id": self._prompt.prompt_id,
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
        }
        self._executor.clients.send_progress(self._prompt.prompt_id, self._progress, self._prompt.client_id)

    def step(self, node_id: str, value: int, maximum: int, preview: Image.Image | None, kind: str) -> None:
        """Send a node's progress and preview; without a client to every socket, as in ComfyUI."""
        if self._executor.interrupted.is_set():
            raise Interrupted
        clients, client_id = self._executor.clients, self._prompt.client_id
        about = {"node_id": node_id, "prompt_id": self._prompt.prompt_id}
        self._set_progress(node_id, "running", value, maximum)
        # ComfyUI sends a preview with metadata before the progress, and one without metadata after it.
        early = clients.wants_metadata(client_id)
        if preview is not None and early:
            clients.send_preview(preview, kind, about, client_id)
        data = {"value": value, "max": maximum, "prompt_id": self._prompt.prompt_id, "node": node_id}
        clients.send("progress", data, client_id)
        if preview is not None and not early:
            clients.send_preview(preview, kind, about, client_id)

    @property
    def folders(self) -> Folders:
        return self._executor.folders

    def metadata(self) -> Mapping[str, Any]:
        """The text chunks of this prompt's PNGs."""
        if not self._executor.metadata:
            return {}
        extra = self._prompt.extra_data.get("extra_pnginfo")
        return {"prompt": self._prompt.graph, **(extra if isinstance(extra, dict) else {})}

    def _note(self, kind: str, data: dict[str, Any]) -> None:
        """Send a message and keep it in the history."""
        full = {"prompt_id": self._prompt.prompt_id, **data, "timestamp": int(time.time() * 1000)}
        self._record.messages.append([kind, full])
        # ComfyUI sends this message to all sockets if the prompt has no client.
        self._send(kind, full, broadcast=kind == "execution_interrupted")

    def _send(self, kind: str, data: dict[str, Any], *, broadcast: bool = False) -> None:
        """Send a message to the prompt's client, if it has one."""
        if self._prompt.client_id is not None or broadcast:
            self._executor.clients.send(kind, {**data, "prompt_id": self._prompt.prompt_id}, self._prompt.client_id)


class NodeRun:
    """Implements `Running` for one node."""

    def __init__(self, run: PromptRun, node_id: str) -> None:
        self._run = run
        self.node_id = node_id
        self.folders = run.folders
        self.metadata = run.metadata()

    def progress(self, value: int, maximum: int, preview: Image.Image | None = None, kind: str = "JPEG") -> None:
        self._run.step(self.node_id, value, maximum, preview, kind)


def failure(error: Exception, inputs: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, Any]:
    """Return the message's data. `inputs` are the failed node's values, `nodes` all nodes of the prompt's plan."""
    return {
        "exception_message": f"{error}\n",
        "exception_type": type_name(error),
        "traceback": traceback.format_tb(error.__traceback__),
        "current_inputs": {name: [_shown(value)] for name, value in inputs.items()},
        "current_outputs": sorted(nodes),
    }


def type_name(error: Exception) -> str:
    """Return an exception's type as in ComfyUI: built-in ones by their name, others with their module."""
    kind = type(error)
    if kind.__name__ == "OutOfMemoryError":
        return "torch.OutOfMemoryError"
    module = getattr(kind, "__module__", "builtins")  # code can delete it
    return kind.__name__ if module == "builtins" else f"{module}.{kind.__name__}"


def _shown(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else str(value)
