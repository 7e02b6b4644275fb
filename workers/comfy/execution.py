"""One prompt from submission to history: the driver.

The WebSocket tells what happens; GET /history tells what is true. Messages can be lost (a broken socket replays
nothing), history can lag behind the success message, an interrupt can be lost, and a prompt that was deleted, or
whose server restarted, says nothing at all. So history is polled, interrupts are repeated, and outputs whose
message was missed are delivered from history before the end.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from workers.comfy.engine import ComfyEngine, History, Prompt
from workers.comfy.inbox import Inbox
from workers.errors import EngineStalled, EngineUnavailable, JobCancelled, NodeFailed, OutOfMemory, WorkerError
from workflows.messages import (
    Executed,
    Executing,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionSuccess,
    Message,
    Status,
    Unknown,
)

LONGEST_MESSAGE = 4000
"""Characters of an exception that are kept: some nodes put whole tensors into theirs."""


@dataclass(frozen=True, slots=True)
class ExecutionPolicy:
    """Times in seconds. `stall_s` None waits for ever on a node that gives no sign of life."""

    poll_s: float = 1.0
    settle_s: float = 0.05
    reconnect_s: float = 0.5
    connect_s: float = 10.0
    unreachable_s: float = 10.0
    interrupt_every_s: float = 0.5
    interrupt_grace_s: float = 10.0
    stall_s: float | None = None


class Execution:
    """Iterate once: `async for message in execution`. Afterwards `history` is what ComfyUI recorded.

    Raises `PromptRefused`, `NodeFailed`, `OutOfMemory`, `JobCancelled` after `cancel()`, `EngineUnavailable` and
    `EngineStalled`; outputs that were finished before are delivered first.
    """

    def __init__(self, engine: ComfyEngine, prompt: Prompt, policy: ExecutionPolicy | None = None) -> None:
        self.history: History | None = None
        self._engine = engine
        self._prompt = prompt
        self._policy = policy or ExecutionPolicy()
        self._inbox = Inbox()
        self._connected = asyncio.Event()
        self._cancelled_at: float | None = None
        self._interrupted_at = 0.0
        self._polled_at = 0.0
        self._answered_at = 0.0
        self._sign_of_life_at = 0.0
        self._ending = False
        self._delivered: set[str] = set()

    def cancel(self) -> None:
        """Ask ComfyUI to stop: interrupts are sent until history shows the end."""
        if self._cancelled_at is None:
            self._cancelled_at = _now()

    async def __aiter__(self) -> AsyncIterator[Message]:
        listener = asyncio.create_task(self._listen())
        try:
            with contextlib.suppress(TimeoutError):  # without a socket, history still tells
                async with asyncio.timeout(self._policy.connect_s):
                    await self._connected.wait()
            await self._engine.submit(self._prompt)
            self._answered_at = self._sign_of_life_at = self._polled_at = _now()
            while self.history is None:
                message = await self._inbox.get(self._policy.settle_s if self._ending else self._wait_s())
                if message is not None and self._is_ours(message):
                    yield message
                await self._look(idle=message is None)
            for message in [*self._inbox.drain(), *self._missed(self.history)]:
                if self._is_ours(message):
                    yield message
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
        self._raise_outcome(self.history)

    # Listening.

    async def _listen(self) -> None:
        """Drains the socket without pause. A new one is opened only after the old one is closed: two sockets of one
        client silence each other."""
        while True:
            with contextlib.suppress(EngineUnavailable):
                async with self._engine.connect(self._prompt.client_id) as messages:
                    self._connected.set()
                    async for message in messages:
                        self._inbox.put(message)
            await asyncio.sleep(self._policy.reconnect_s)

    def _is_ours(self, message: Message) -> bool:
        """Of this prompt, or without an id. Each node's output is delivered once."""
        if isinstance(message, Status | Unknown):
            return False
        prompt_id = getattr(message, "prompt_id", None)
        if prompt_id not in (None, self._prompt.prompt_id):
            return False
        self._sign_of_life_at = _now()
        match message:
            case Executed(node=node):
                if node in self._delivered:
                    return False
                self._delivered.add(node)
            case ExecutionSuccess() | ExecutionError() | ExecutionInterrupted() | Executing(node=None):
                self._ending = True
        return True

    def _missed(self, history: History) -> list[Message]:
        return [
            Executed(self._prompt.prompt_id, node, node, output)
            for node, output in history.outputs.items()
            if node not in self._delivered
        ]

    # Looking at the truth.

    def _wait_s(self) -> float:
        return self._policy.poll_s if self._cancelled_at is None else self._policy.interrupt_every_s

    async def _look(self, *, idle: bool) -> None:
        """Poll history when it is due, see to a cancellation, and notice an engine that is gone or stuck."""
        now = _now()
        due = idle or self._ending or now - self._polled_at >= self._policy.poll_s
        if due:
            self._polled_at = now
            await self._poll()
        if self.history is not None:
            return
        if self._cancelled_at is not None:
            await self._interrupt(now - self._cancelled_at)
        if self._policy.stall_s is not None and now - self._sign_of_life_at > self._policy.stall_s:
            raise EngineStalled(f"no sign of life from ComfyUI for {self._policy.stall_s:.0f} s")

    async def _poll(self) -> None:
        prompt_id = self._prompt.prompt_id
        try:
            self.history = await self._engine.history(prompt_id)
            if self.history is None and not await self._engine.is_queued(prompt_id):
                self.history = await self._engine.history(prompt_id)  # it may have ended between the two questions
                if self.history is None:
                    raise self._vanished()
            self._answered_at = _now()
        except EngineUnavailable as error:
            if isinstance(error, _Vanished) or _now() - self._answered_at > self._policy.unreachable_s:
                raise

    def _vanished(self) -> WorkerError:
        if self._cancelled_at is not None:
            return JobCancelled("removed from ComfyUI's queue")
        return _Vanished("ComfyUI no longer knows the prompt: it was restarted, or its queue was cleared")

    async def _interrupt(self, asked_for_s: float) -> None:
        if asked_for_s > self._policy.interrupt_grace_s:
            raise EngineStalled(f"ComfyUI ignored interrupts for {self._policy.interrupt_grace_s:.0f} s")
        if _now() - self._interrupted_at >= self._policy.interrupt_every_s:
            self._interrupted_at = _now()
            with contextlib.suppress(EngineUnavailable):
                await self._engine.interrupt(self._prompt.prompt_id)

    # The outcome.

    def _raise_outcome(self, history: History) -> None:
        """History's status decides: a blocked branch sends an error message although the prompt succeeds."""
        if history.status_str == "success":
            return
        for message in reversed(history.messages):
            match message:
                case ExecutionInterrupted():
                    raise self._stopped()
                case ExecutionError():
                    raise _node_failure(message)
        raise NodeFailed("ComfyUI reports a failure without a reason")

    def _stopped(self) -> WorkerError:
        if self._cancelled_at is not None:
            return JobCancelled("interrupted")
        return EngineUnavailable("someone else interrupted this ComfyUI")


class _Vanished(EngineUnavailable):
    """The prompt is neither queued nor recorded: polling on would be in vain."""


def _node_failure(error: ExecutionError) -> NodeFailed | OutOfMemory:
    kind = OutOfMemory if error.exception_type.endswith("OutOfMemoryError") else NodeFailed
    return kind(
        error.exception_message.strip()[:LONGEST_MESSAGE] or error.exception_type,
        node_id=error.node_id,
        class_type=error.node_type,
        exception_type=error.exception_type,
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
