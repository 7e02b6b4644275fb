"""A ComfyUI in virtual time: a `ComfyEngine` whose nodes take time, fail, hang or crash the engine.

Its messages have the order of the recorded ones; history, interrupts and the queue behave like the real server's.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from storage.intake.host_paths import HostPaths
from storage.pools.worker_facts import AttentionChoice
from tests.simulation.faults import Faults
from workers.attention import NOT_OURS
from workers.comfy.engine import ANY_SIZE, FileRef, History, Prompt, PromptQueue
from workers.comfy.host import EngineLog
from workers.errors import EngineUnavailable, OutputFailed
from workers.isolation import Isolation
from workflows.messages import (
    Executed,
    Executing,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    Message,
    Progress,
)

STEPS = 3


def _nowhere(what: str) -> None:
    """Report a misuse of an engine to no watcher."""


class SimulatedEngine:
    """An engine; `output` is the file that every output node makes. It reports what must not happen while a prompt
    runs."""

    def __init__(self, faults: Faults, output: Path, log: EngineLog, report: Callable[[str], None] = _nowhere) -> None:
        self.alive = True
        self.showing: set[str] = set()
        self._faults = faults
        self._output = output
        self._log = log
        self._report = report
        self._made: set[str] = set()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._histories: dict[str, History] = {}
        self._sockets: dict[str, asyncio.Queue[Message | None]] = {}
        self._ignores_interrupts = False

    @property
    def is_busy(self) -> bool:
        return self.alive and bool(self._running)

    async def submit(self, prompt: Prompt) -> dict[str, Any]:
        self._check()
        self._check_idle("an engine got a prompt")
        self._running[prompt.prompt_id] = asyncio.create_task(self._run(prompt))
        return {}

    @asynccontextmanager
    async def connect(self, client_id: str) -> AsyncIterator[AsyncIterator[tuple[Message, int]]]:
        self._check()
        socket: asyncio.Queue[Message | None] = asyncio.Queue()
        self._sockets[client_id] = socket
        try:
            yield _messages(socket)
        finally:
            self._sockets.pop(client_id, None)

    async def interrupt(self, prompt_id: str) -> None:
        self._check()
        running = self._running.get(prompt_id)
        if running and not self._ignores_interrupts and not self._faults.happens(self._faults.rates.interrupt_lost):
            running.cancel()

    async def history(self, prompt_id: str) -> History | None:
        self._check()
        return self._histories.get(prompt_id)

    async def forget(self, prompt_id: str) -> None:
        self._check()
        self._histories.pop(prompt_id, None)

    async def queue(self) -> PromptQueue:
        self._check()
        return PromptQueue(running=frozenset(self._running))

    async def declarations(self) -> dict[str, Any]:
        self._check()
        return OBJECT_INFO

    async def system_stats(self) -> dict[str, Any]:
        self._check()
        return {}

    @property
    def files(self) -> "SimulatedEngine":
        return self

    async def clean(self) -> None:
        self._check_idle("an engine's folders were emptied")
        self._made.clear()

    async def stage(self, name: str, path: Path) -> None:
        self._check_idle("an input was moved to an engine")
        path.unlink()

    async def find(self, names: Sequence[str]) -> dict[str, FileRef]:
        return {}

    def private_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._output.parent))

    def free_bytes(self) -> int:
        return 0

    async def fetch(self, ref: FileRef, into: Path, *, max_bytes: int = ANY_SIZE) -> Path:
        await asyncio.sleep(self._faults.chance.uniform(0, self._faults.rates.fetch_s))
        if ref.filename not in self._made:
            raise OutputFailed(f"{ref.filename} was removed")
        return self._output

    def die(self) -> None:
        """Close the sockets, fail further requests and discard the state."""
        self.alive = False
        for socket in self._sockets.values():
            socket.put_nowait(None)
        for running in self._running.values():
            running.cancel()

    def _check_idle(self, what: str) -> None:
        if self.is_busy:
            self._report(f"{what} while another prompt ran")

    def _check(self) -> None:
        if not self.alive:
            raise EngineUnavailable("simulated: nothing listens")

    async def _run(self, prompt: Prompt) -> None:
        outputs: dict[str, Mapping[str, Any]] = {}
        messages: list[Message] = [ExecutionStart(prompt.prompt_id)]
        try:
            for node_id, node in prompt.graph.items():
                failure = await self._execute(prompt, node_id, node, outputs)
                if failure is not None:
                    messages.append(failure)
                    break
        except asyncio.CancelledError:
            messages.append(ExecutionInterrupted(prompt.prompt_id, "?", "?"))
        if not self.alive:
            return
        failed = len(messages) > 1
        if not failed:
            messages.append(ExecutionSuccess(prompt.prompt_id))
        self._histories[prompt.prompt_id] = History(
            "error" if failed else "success", not failed, outputs, tuple(messages)
        )
        del self._running[prompt.prompt_id]
        self._ignores_interrupts = False
        self._send(prompt, messages[-1])
        self._send(prompt, Executing(prompt.prompt_id, None, None))

    async def _execute(
        self, prompt: Prompt, node_id: str, node: Mapping[str, Any], outputs: dict[str, Mapping[str, Any]]
    ) -> Message | None:
        rates = self._faults.rates
        self._log.append(f"executing {node_id}")
        self._send(prompt, Executing(prompt.prompt_id, node_id, node_id))
        for step in range(STEPS):
            await asyncio.sleep(self._faults.chance.uniform(0.1, 1.5))
            self._send(prompt, Progress(prompt.prompt_id, node_id, step + 1, STEPS))
        if self._faults.happens(rates.engine_dies):
            self.die()
            raise asyncio.CancelledError
        if self._faults.happens(rates.engine_hangs):
            self._ignores_interrupts = self._faults.happens(0.5)
            await asyncio.sleep(10_000)
        if self._faults.happens(rates.node_fails):
            return ExecutionError(prompt.prompt_id, node_id, node["class_type"], "ValueError", "simulated")
        if node["class_type"] == "Save":
            name = f"{prompt.prompt_id}-{node_id}.txt"
            self._made.add(name)
            ui = {"text": [f"node {node_id}"]} if node_id == "2" else {"files": [_file(name)]}
            outputs[node_id] = ui
            self._send(prompt, Executed(prompt.prompt_id, node_id, node_id, ui))
        return None

    def _send(self, prompt: Prompt, message: Message) -> None:
        socket = self._sockets.get(prompt.client_id)
        if socket is not None and self.alive:
            socket.put_nowait(message)


class SimulatedHost:
    """An `EngineHost` whose start takes time and may fail."""

    def __init__(self, faults: Faults, output: Path, report: Callable[[str], None] = _nowhere) -> None:
        self._report = report
        self.log = EngineLog(100)
        self.paths = HostPaths()
        self._faults = faults
        self._output = output
        self._engine: SimulatedEngine | None = None

    @property
    def engine(self) -> SimulatedEngine:
        if self._engine is None:
            raise EngineUnavailable("not started")
        return self._engine

    @property
    def is_busy(self) -> bool:
        """Whether a prompt runs."""
        return self._engine is not None and self._engine.is_busy

    @property
    def url(self) -> str:
        return "simulated:"

    @property
    def attention(self) -> AttentionChoice:
        return NOT_OURS

    @property
    def isolation(self) -> Isolation:
        return Isolation(reason="simulated")

    @property
    def start_phases(self) -> dict[str, float]:
        return {}

    @property
    def pid(self) -> int | None:
        return None

    def is_alive(self) -> bool:
        return self._engine is not None and self._engine.alive

    async def start(self) -> None:
        await asyncio.sleep(self._faults.chance.uniform(0.5, 5))
        if self._faults.happens(self._faults.rates.engine_dies):
            raise EngineUnavailable("simulated: it did not start")
        self._engine = SimulatedEngine(self._faults, self._output, self.log, self._report)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        if self._engine is not None:
            self._engine.die()
            self._engine = None


def _file(name: str) -> dict[str, str]:
    return {"filename": name, "subfolder": "", "type": "output"}


async def _messages(socket: "asyncio.Queue[Message | None]") -> AsyncIterator[tuple[Message, int]]:
    while (message := await socket.get()) is not None:
        yield message, 1


_ANY: dict[str, Any] = {"input": {}, "output": ["*"], "output_node": False}
OBJECT_INFO = {"Make": _ANY, "Save": {**_ANY, "output": [], "output_node": True}}
GRAPH = {
    "1": {"class_type": "Make", "inputs": {}},
    "2": {"class_type": "Save", "inputs": {"x": ["1", 0]}},
    "3": {"class_type": "Save", "inputs": {"x": ["1", 0]}},
}
