"""`ComfyEngine`: one ComfyUI server as the job runner sees it. Real ComfyUI and the lite engine serve it alike."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from workers.errors import EngineUnavailable
from workflows.messages import Message


class EngineSilent(EngineUnavailable):
    """It let a request wait too long. It may merely be busy: a node that holds the GIL holds up every answer."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one POST /prompt submits. `prompt_id` and `client_id` are fresh canonical uuid4s, never reused."""

    prompt_id: str
    client_id: str
    graph: Mapping[str, Any]
    extra_data: Mapping[str, Any] = field(default_factory=dict)
    is_strict: bool = False
    """Whether it is refused where ComfyUI would run only some of its outputs."""


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file as ComfyUI names it; `type` is output, temp or input."""

    filename: str
    subfolder: str
    type: str


@dataclass(frozen=True, slots=True)
class PromptQueue:
    """GET /queue: the ids of the prompts that run and that wait."""

    running: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self.running or prompt_id in self.waiting


@dataclass(frozen=True, slots=True)
class History:
    """GET /history/{id}. `outputs` maps node id to its ui payload; `messages` are the pairs as recorded.

    An interrupt has `status_str` "error" too: only the last message tells them apart.
    """

    status_str: str
    completed: bool
    outputs: Mapping[str, Mapping[str, Any]]
    messages: tuple[Message, ...]


class ComfyEngine(Protocol):
    """Every method may raise `EngineUnavailable`, and `EngineSilent` where waiting longer may help.

    `showing` are the classes whose nodes named files since this server began, outputs or not. ComfyUI names these files
    again when it takes such a node from its cache, but they are gone with their job.
    """

    showing: set[str]

    async def submit(self, prompt: Prompt) -> Mapping[str, Any] | None:
        """POST /prompt. ComfyUI's `node_errors` for the outputs that it does not run; None where its answer was lost.

        `PromptRefused` on 4xx, and for a strict prompt on 200 with node_errors (then the prompt is withdrawn).
        """
        ...

    def connect(self, client_id: str) -> AbstractAsyncContextManager[AsyncIterator[Message]]:
        """One WebSocket, drained without pause; the iterator ends when the socket closes."""
        ...

    async def interrupt(self, prompt_id: str) -> None:
        """Stop this prompt, whether it waits or runs. May be lost: repeat until history says so."""
        ...

    async def history(self, prompt_id: str) -> History | None:
        """None while the prompt waits or runs."""
        ...

    async def queue(self) -> PromptQueue: ...

    async def declarations(self) -> dict[str, Any]:
        """ComfyUI's object_info; with ADDED_INSIDE in each class where our node runs inside the engine."""
        ...

    async def system_stats(self) -> dict[str, Any]: ...

    async def clean(self) -> None:
        """Empty the input, output and temp folders, where this worker owns them."""
        ...

    async def stage(self, name: str, path: Path) -> None:
        """Make the file at `path` an input called `name`, folders included; takes the file away from `path`."""
        ...

    async def find(self, names: Sequence[str]) -> dict[str, FileRef]:
        """Which of these strings, from what a node said, name files in the output or temp folder."""
        ...

    async def fetch(self, ref: FileRef) -> Path:
        """A local path with the file's bytes; `OutputFailed` if it is gone or lies outside ComfyUI's folders."""
        ...
