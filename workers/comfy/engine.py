"""`ComfyEngine`: the job runner's interface to one ComfyUI server, either real ComfyUI or the lite engine."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from workers.errors import EngineUnavailable
from workflows.messages import Message

ANY_SIZE = sys.maxsize


class EngineSilent(EngineUnavailable):
    """A request timed out. The engine may only be busy: a node that holds the GIL delays every response."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The content of one POST /prompt. `prompt_id` and `client_id` are new canonical uuid4s, never reused."""

    prompt_id: str
    client_id: str
    graph: Mapping[str, Any]
    extra_data: Mapping[str, Any] = field(default_factory=dict)
    is_strict: bool = False
    """Whether the prompt is refused if ComfyUI would run only some of its outputs."""


@dataclass(frozen=True, slots=True)
class FileRef:
    """ComfyUI's reference to a file; `type` is output, temp or input."""

    filename: str
    subfolder: str
    type: str


@dataclass(frozen=True, slots=True)
class PromptQueue:
    """The ids of the running and the queued prompts (GET /queue)."""

    running: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self.running or prompt_id in self.waiting


@dataclass(frozen=True, slots=True)
class History:
    """A prompt's entry of GET /history/{id}. `outputs` maps a node id to its ui payload; `messages` are the pairs.

    An interrupt has `status_str` "error" too: only the last message distinguishes it from an error.
    """

    status_str: str
    completed: bool
    outputs: Mapping[str, Mapping[str, Any]]
    messages: tuple[Message, ...]


class EngineFiles(Protocol):
    """The files of one ComfyUI server. Raises as `ComfyEngine` does."""

    async def clean(self) -> None:
        """Empty the input, output and temp folders if this worker owns them."""
        ...

    async def stage(self, name: str, path: Path) -> None:
        """Move the file at `path` to the input `name`, which may contain folders."""
        ...

    async def find(self, names: Sequence[str]) -> dict[str, FileRef]:
        """Return those of a node's strings that name files in the output or temp folder, with the files."""
        ...

    def private_folder(self) -> Path:
        """Create a folder for a job's files on their way to or from the engine, which cannot reach it.

        `clean` does not touch it; the caller removes it.
        """
        ...

    def free_bytes(self) -> int:
        """Return the free space on the disk of the private folders."""
        ...

    async def fetch(self, ref: FileRef, into: Path, *, max_bytes: int = ANY_SIZE) -> Path:
        """Put the file into a private folder and return its path there.

        At most `max_bytes` are copied. A process of the job may still change the file if it is not a copy. Raises
        `OutputFailed` if it is missing or outside ComfyUI's folders.
        """
        ...


class ComfyEngine(Protocol):
    """Every method may raise `EngineUnavailable`, and `EngineSilent` if a longer wait may help.

    `showing` are the classes whose nodes have reported files since the server started, outputs or not. ComfyUI reports
    these files again when such a node's result is cached, but they were deleted with their job.
    """

    showing: set[str]

    @property
    def files(self) -> EngineFiles: ...

    async def submit(self, prompt: Prompt) -> Mapping[str, Any] | None:
        """Submit a prompt; return `node_errors` for the outputs that do not run, None if the response was lost.

        Raises `PromptRefused` on 4xx, and for a strict prompt on 200 with node_errors (the prompt is then withdrawn).
        """
        ...

    def connect(self, client_id: str) -> AbstractAsyncContextManager[AsyncIterator[tuple[Message, int]]]:
        """Open a WebSocket: its messages, each with the weight of its frame, to the end of the socket.

        The engine waits while the iterator is not read.
        """
        ...

    async def interrupt(self, prompt_id: str) -> None:
        """Stop a queued or running prompt. An interrupt may be lost: repeat it until history shows the end."""
        ...

    async def history(self, prompt_id: str) -> History | None:
        """Return the prompt's history; None while it is queued or running."""
        ...

    async def forget(self, prompt_id: str) -> None:
        """Delete the prompt's history: its graph and results, which the engine keeps for 10,000 prompts."""
        ...

    async def queue(self) -> PromptQueue: ...

    async def declarations(self) -> dict[str, Any]:
        """Return ComfyUI's object_info, with ADDED_INSIDE in each class if our node runs inside the engine."""
        ...

    async def system_stats(self) -> dict[str, Any]: ...
