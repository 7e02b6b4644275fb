"""Runs prompts one after another in a thread of its own, and tells the client what ComfyUI would tell it."""

import hashlib
import json
import logging
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from PIL import Image

from workers.lite.clients import Clients
from workers.lite.folders import Folders
from workers.lite.node import Interrupted, NodeClass, Result
from workers.lite.prompts import Prompts, QueuedPrompt, Record

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cached:
    """A node's result under the signature of all that it depends on."""

    signature: str
    result: Result


class Executor:
    """`cache` holds the results of the last prompt, as ComfyUI's default cache does."""

    def __init__(self, classes: Mapping[str, NodeClass], folders: Folders, clients: Clients, *, metadata: bool) -> None:
        self.classes = classes
        self.folders = folders
        self.clients = clients
        self.metadata = metadata
        self.interrupted = threading.Event()
        self.cache: dict[str, Cached] = {}
        self.current: tuple[str, str | None] | None = None
        """The running node and its client, for a socket that connects meanwhile."""

    def run_forever(self, prompts: Prompts) -> None:
        while True:
            prompt = prompts.take()
            self.interrupted.clear()
            logger.info("got prompt %s", prompt.prompt_id)
            record = PromptRun(self, prompt).run()
            prompts.finish(record)
            self.current = None
            self.clients.send("executing", {"node": None, "prompt_id": prompt.prompt_id}, prompt.client_id)


class PromptRun:
    """One prompt, from execution_start to its history."""

    def __init__(self, executor: Executor, prompt: QueuedPrompt) -> None:
        self._executor = executor
        self._prompt = prompt
        self._record = Record(prompt)
        self._results: dict[str, Result] = {}
        self._progress: dict[str, dict[str, Any]] = {}
        self._executed: list[str] = []

    def run(self) -> Record:
        self._note("execution_start", {})
        order = self._order()
        signatures = self._signatures(order)
        for node_id in order:
            cached = self._executor.cache.get(node_id)
            if cached is not None and cached.signature == signatures[node_id]:
                self._results[node_id] = cached.result
        self._note("execution_cached", {"nodes": [node_id for node_id in order if node_id in self._results]})
        try:
            for node_id in order:
                self._run_node(node_id)
        except Interrupted:
            self._note("execution_interrupted", self._culprit())
        except Exception as error:
            self._note("execution_error", self._culprit() | _failure(error))
        else:
            self._record.succeeded = True
            self._note("execution_success", {})
        self._executor.cache = {n: Cached(signatures[n], result) for n, result in self._results.items()}
        return self._record

    def _run_node(self, node_id: str) -> None:
        node = self._prompt.graph[node_id]
        result = self._results.get(node_id)
        if result is not None:
            if result.ui is not None:
                self._send_executed(node_id, result.ui)
                self._set_progress(node_id, "finished", 1, 1)
            return
        self._executor.current = (node_id, self._prompt.client_id)
        self._set_progress(node_id, "running", 0.0, 1.0)
        self._send("executing", {"node": node_id, "display_node": node_id})
        if self._executor.interrupted.is_set():
            raise Interrupted
        run = NodeRun(self, node_id)
        result = self._executor.classes[node["class_type"]].execute(run, **self._values(node_id))
        self._results[node_id] = result
        self._executed.append(node_id)
        if result.ui is not None:
            self._send_executed(node_id, result.ui)
        last = self._progress[node_id]
        self._set_progress(node_id, "finished", last["max"], last["max"])

    def _values(self, node_id: str) -> dict[str, Any]:
        """What the node declares, of what the prompt gives: unknown inputs are ignored."""
        node = self._prompt.graph[node_id]
        declared = self._executor.classes[node["class_type"]].inputs()
        values = {name.replace(".", "_"): value for name, value in node["inputs"].items() if name in declared}
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = self._results[value[0]].values[value[1]]
        return values

    def _order(self) -> list[str]:
        """Dependencies first; among nodes that are ready, outputs first, then those that feed one."""
        graph = self._prompt.graph
        wanted: dict[str, set[str]] = {}
        waiting = list(self._prompt.outputs)
        while waiting:
            node_id = waiting.pop()
            if node_id not in wanted:
                wanted[node_id] = {value[0] for value in graph[node_id]["inputs"].values() if isinstance(value, list)}
                waiting += wanted[node_id]
        sorter = TopologicalSorter(wanted)
        sorter.prepare()
        ready: list[str] = []
        order: list[str] = []
        while sorter.is_active():
            unblocked = set(sorter.get_ready())
            ready += [node_id for node_id in graph if node_id in unblocked]
            ready.sort(key=lambda node_id: self._distance_to_output(node_id, wanted))
            order.append(ready.pop(0))
            sorter.done(order[-1])
        return order

    def _distance_to_output(self, node_id: str, wanted: Mapping[str, set[str]]) -> int:
        if self._executor.classes[self._prompt.graph[node_id]["class_type"]].is_output:
            return 0
        feeds_output = any(
            node_id in sources and self._executor.classes[self._prompt.graph[user]["class_type"]].is_output
            for user, sources in wanted.items()
        )
        return 1 if feeds_output else 2

    def _signatures(self, order: list[str]) -> dict[str, str]:
        """A hash of the node, of unknown inputs too, and of all that it depends on."""
        found: dict[str, str] = {}
        for node_id in order:
            node = self._prompt.graph[node_id]
            declared = self._executor.classes[node["class_type"]]
            inputs = {
                name: [found[value[0]], value[1]] if isinstance(value, list) else value
                for name, value in sorted(node["inputs"].items())
            }
            seen = declared.fingerprint(self._executor.folders, inputs) if declared.fingerprint else ""
            text = json.dumps([node["class_type"], inputs, seen], sort_keys=True, default=str)
            found[node_id] = hashlib.sha256(text.encode()).hexdigest()
        return found

    def _culprit(self) -> dict[str, Any]:
        node_id = (self._executor.current or ("", None))[0]
        node_type = self._prompt.graph.get(node_id, {}).get("class_type", "")
        return {"node_id": node_id, "node_type": node_type, "executed": list(self._executed)}

    def _send_executed(self, node_id: str, ui: Mapping[str, Any]) -> None:
        self._record.outputs[node_id] = dict(ui)
        self._send("executed", {"node": node_id, "display_node": node_id, "output": dict(ui)})

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
        data = {"prompt_id": self._prompt.prompt_id, "nodes": self._progress}
        self._executor.clients.send("progress_state", data, self._prompt.client_id)

    def step(self, node_id: str, value: int, maximum: int, preview: Image.Image | None) -> None:
        """A node's progress, with its preview; without a client it goes to everyone, as in ComfyUI."""
        if self._executor.interrupted.is_set():
            raise Interrupted
        self._set_progress(node_id, "running", value, maximum)
        prompt_id, client_id = self._prompt.prompt_id, self._prompt.client_id
        data = {"value": value, "max": maximum, "prompt_id": prompt_id, "node": node_id}
        self._executor.clients.send("progress", data, client_id)
        if preview is not None:
            self._executor.clients.send_preview(preview, node_id, prompt_id, client_id)

    def metadata(self) -> Mapping[str, str]:
        return {"prompt": json.dumps(self._prompt.graph)} if self._executor.metadata else {}

    @property
    def folders(self) -> Folders:
        return self._executor.folders

    def _note(self, kind: str, data: dict[str, Any]) -> None:
        """A message that the history keeps too."""
        full = {"prompt_id": self._prompt.prompt_id, **data, "timestamp": int(time.time() * 1000)}
        self._record.messages.append([kind, full])
        broadcast = kind == "execution_interrupted"
        self._send(kind, {key: full[key] for key in full if key != "prompt_id"}, broadcast=broadcast)

    def _send(self, kind: str, data: dict[str, Any], *, broadcast: bool = False) -> None:
        """To the prompt's client; without one, to nobody."""
        if self._prompt.client_id is not None or broadcast:
            data = {**data, "prompt_id": self._prompt.prompt_id}
            self._executor.clients.send(kind, data, self._prompt.client_id)


class NodeRun:
    """`Running` for one node."""

    def __init__(self, run: PromptRun, node_id: str) -> None:
        self._run = run
        self.node_id = node_id
        self.folders = run.folders
        self.metadata = run.metadata()

    def progress(self, value: int, maximum: int, preview: Image.Image | None = None) -> None:
        self._run.step(self.node_id, value, maximum, preview)


def _failure(error: Exception) -> dict[str, Any]:
    return {
        "exception_message": f"{error}\n",
        "exception_type": _type_name(error),
        "traceback": traceback.format_tb(error.__traceback__),
        "current_inputs": {},
        "current_outputs": [],
    }


def _type_name(error: Exception) -> str:
    """Built-in exceptions by their bare name, others with their module, as ComfyUI writes them."""
    kind = type(error)
    if kind.__name__ == "OutOfMemoryError":
        return "torch.OutOfMemoryError"
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
