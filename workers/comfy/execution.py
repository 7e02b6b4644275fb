"""Drives one prompt from its submission to its entry in ComfyUI's history.

The WebSocket reports progress; GET /history is the source of truth. Messages can be lost (a broken socket replays
nothing), history can lag behind the success message, an interrupt can be lost, and a prompt that was deleted, or whose
server restarted, sends no message at all. So history is polled, interrupts are repeated, and outputs whose message was
missed are delivered from history before the end.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Mapping
from typing import Any, TypeVar

from workers.comfy.engine import ComfyEngine, History, Prompt
from workers.comfy.history import ExecutionPolicy, PromptPoll, PromptVanished, failure_of
from workers.comfy.socket import PromptSocket
from workers.errors import (
    EngineError,
    EngineStalled,
    EngineUnavailable,
    JobCancelled,
    PromptRefused,
    WorkerError,
)
from workflows.messages import (
    Executed,
    Executing,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionSuccess,
    Message,
)

__all__ = ["Execution", "ExecutionPolicy"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

MOST_DELIVERED = 10_000
"""Nodes whose outputs are delivered by messages. A node's code can report outputs of any number of others."""


class Execution:
    """Iterate once, in `contextlib.aclosing`, which closes the socket.

    Afterwards `history` is ComfyUI's entry of the prompt.
    `node_errors` is known from the first message on: why ComfyUI runs only some of the outputs, None if it did not
    respond. If the iteration ends early, `was_abandoned` is true: the prompt was withdrawn, but its current node may
    still run.

    Raises `PromptRefused`, `NodeFailed`, `OutOfMemory`, `JobCancelled` after `cancel()`, `EngineUnavailable` and
    `EngineStalled`; outputs that were finished before are delivered first.
    """

    def __init__(
        self,
        engine: ComfyEngine,
        prompt: Prompt,
        policy: ExecutionPolicy | None = None,
        socket: PromptSocket | None = None,
    ) -> None:
        self.history: History | None = None
        self.node_errors: Mapping[str, Any] | None = None
        self.was_abandoned = False
        self._engine = engine
        self._prompt = prompt
        self._policy = policy or ExecutionPolicy()
        self._poll = PromptPoll(engine, prompt.prompt_id, self._policy)
        self._socket = socket or PromptSocket(engine, prompt.client_id, self._policy)
        self._inbox = self._socket.inbox
        self._inbox.prompt_id = prompt.prompt_id
        self._is_submitted = False
        self._cancelled_at: float | None = None
        self._patience: asyncio.Timeout | None = None
        self._interrupted_at = 0.0
        self._polled_at = 0.0
        self._heard_at = 0.0
        self._settling_until = 0.0
        self._poll_now = False
        self._is_running = False
        self._has_ended = False
        self._node: str | None = None
        self._delivered: set[str] = set()

    @property
    def graph(self) -> Mapping[str, Any]:
        """The prompt's graph, as it was submitted."""
        return self._prompt.graph

    def cancel(self) -> None:
        """Interrupt the prompt; interrupts are repeated until history shows the end."""
        if self._cancelled_at is None:
            self._cancelled_at = _now()
            self._inbox.wake()
            if self._patience is not None:  # the call in flight must end within the grace as well
                self._patience.reschedule(self._give_up_at)

    @property
    def _give_up_at(self) -> float | None:
        return None if self._cancelled_at is None else self._cancelled_at + self._policy.interrupt_grace_s

    async def __aiter__(self) -> AsyncGenerator[Message, None]:
        failure: WorkerError | None = None
        try:
            await self._submit()
            while self.history is None and failure is None:
                message = await self._inbox.get(self._wait_s())
                if message is not None and self._is_news(message):
                    yield message
                failure = await self._check(idle=message is None)
            if failure is None:
                async for message in self._last_messages():
                    yield message
            await self._socket.close()  # so that what is left over is finite
            for message in self._left_over():
                yield message
        finally:
            await self._socket.close()
            if self._is_submitted and self.history is None and failure is None:
                self.was_abandoned = True
                await self._withdraw()
            if self._is_submitted:
                await self._forget()
        if self.history is not None:
            failure = failure_of(self.history, cancelled=self._cancelled_at is not None)
        if failure is not None:
            raise self._blamed(failure)

    def _blamed(self, failure: WorkerError) -> WorkerError:
        """Attribute an engine crash to the node that was running."""
        if isinstance(failure, EngineError) and failure.node_id is None and self._node is not None:
            failure.node_id = self._node
            failure.class_type = self._prompt.graph.get(self._node, {}).get("class_type")
        return failure

    async def _submit(self) -> None:
        """Submit the prompt once the socket is connected, or without it after `connect_s`."""
        # ComfyUI replays nothing, so the socket comes first. Without one, history still reports the outcome.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._policy.connect_s):
                await self._socket.connected()
        if self._cancelled_at is not None:
            raise JobCancelled("stopped before it was submitted")
        self._is_submitted = True
        try:
            self.node_errors = await self._answered(self._engine.submit(self._prompt))
        except PromptRefused:
            self._is_submitted = False  # nothing runs, so nothing has to be withdrawn
            raise
        self._heard_at = self._polled_at = _now()

    async def _withdraw(self) -> None:
        """Interrupt an abandoned prompt until it has left ComfyUI's queue, so that it does not delay the next one."""
        with contextlib.suppress(TimeoutError, EngineUnavailable):
            async with asyncio.timeout(self._policy.withdraw_s):
                await self._engine.interrupt(self._prompt.prompt_id)
                while self._prompt.prompt_id in await self._engine.queue():
                    await asyncio.sleep(self._policy.interrupt_every_s)
                    await self._engine.interrupt(self._prompt.prompt_id)

    async def _forget(self) -> None:
        """Delete the prompt's history, so that the engine's memory does not grow with each job's graph and results."""
        with contextlib.suppress(TimeoutError, EngineUnavailable):
            async with asyncio.timeout(self._policy.withdraw_s):
                await self._engine.forget(self._prompt.prompt_id)

    async def _answered(self, call: Awaitable[T]) -> T:
        """Await an engine call. Raises `EngineStalled` if it has not returned `interrupt_grace_s` after `cancel()`."""
        try:
            async with asyncio.timeout_at(self._give_up_at) as self._patience:
                return await call
        except TimeoutError:
            grace_s = self._policy.interrupt_grace_s
            raise EngineStalled(f"ComfyUI gave no answer for {grace_s:.0f} s after it was to stop") from None
        finally:
            self._patience = None

    def _is_news(self, message: Message) -> bool:
        """Whether a message is of this prompt and was not delivered before."""
        if not self._is_ours(message):
            return False
        self._heard_at = _now()
        match message:
            case Executed(node=node):
                # What is left out here is in the history, whose size is limited.
                if node in self._delivered or len(self._delivered) >= MOST_DELIVERED:
                    return False
                self._delivered.add(node)
            case Executing(node=str(node)):
                self._node = node
            case ExecutionSuccess() | Executing(node=None):
                # History lags behind this message, so it is polled at a short interval for a while.
                self._settling_until = _now() + self._policy.settling_s
                self._has_ended = self._has_ended or isinstance(message, Executing)
                self._poll_now, self._is_running = True, False
            case ExecutionError() | ExecutionInterrupted():
                self._poll_now = True
        return True

    def _is_ours(self, message: Message) -> bool:
        """Whether a message belongs to this prompt."""
        prompt_id = getattr(message, "prompt_id", None)
        if prompt_id == self._prompt.prompt_id or (isinstance(message, Executing) and prompt_id is None):
            self._is_running = True  # an `executing` without an id greets a client that comes back
            return True
        # ComfyUI runs one prompt at a time: a message without an id is ours while ours runs, else another's broadcast.
        return prompt_id is None and self._is_running

    async def _last_messages(self) -> AsyncIterator[Message]:
        """Yield messages up to the one that ends the prompt, or until `linger_s` is over."""
        # History may show the end before the socket's last messages arrive.
        deadline = _now() + self._policy.linger_s
        while self._socket.is_connected and not self._has_ended and (self._has_backlog or _now() < deadline):
            message = await self._inbox.get(deadline - _now())
            if message is not None and self._is_news(message):
                yield message

    @property
    def _has_backlog(self) -> bool:
        """Whether messages wait that are to be delivered, behind which the socket may hold others."""
        return bool(len(self._inbox)) and self._cancelled_at is None

    def _left_over(self) -> Iterator[Message]:
        """Yield the messages left in the inbox, then outputs of the history whose message was missed."""
        while (message := self._inbox.get_nowait()) is not None:
            if self._is_news(message):
                yield message
        for node, output in self.history.outputs.items() if self.history is not None else ():
            if node not in self._delivered:
                self._delivered.add(node)
                yield Executed(self._prompt.prompt_id, node, node, output)

    def _wait_s(self) -> float:
        if _now() < self._settling_until:
            return self._policy.settle_s
        return self._policy.poll_s if self._cancelled_at is None else self._policy.interrupt_every_s

    async def _check(self, *, idle: bool) -> WorkerError | None:
        """Poll history if it is due and repeat an interrupt; return the failure if the prompt must be given up."""
        now = _now()
        if idle or self._poll_now or self._socket.has_lost_messages or now - self._polled_at >= self._policy.poll_s:
            self._poll_now, self._polled_at, self._socket.has_lost_messages = False, now, False
            try:
                self.history = await self._answered(self._poll.ask(now))
            except PromptVanished as vanished:
                return vanished if self._cancelled_at is None else JobCancelled("removed from ComfyUI's queue")
            except EngineError as error:
                return error
        if self.history is not None:
            return None
        if self._cancelled_at is not None:
            return await self._interrupt(now - self._cancelled_at)
        if self._policy.stall_s is not None and now - self._heard_at > self._policy.stall_s:
            return EngineStalled(f"no sign of life from ComfyUI for {self._policy.stall_s:.0f} s")
        return None

    async def _interrupt(self, asked_for_s: float) -> WorkerError | None:
        if asked_for_s > self._policy.interrupt_grace_s:
            return EngineStalled(f"ComfyUI ignored interrupts for {self._policy.interrupt_grace_s:.0f} s")
        if _now() - self._interrupted_at >= self._policy.interrupt_every_s:
            self._interrupted_at = _now()
            try:
                await self._answered(self._engine.interrupt(self._prompt.prompt_id))
            except EngineStalled as stalled:
                return stalled
            except EngineUnavailable as error:
                logger.debug("an interrupt was lost: %s", error)
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()
