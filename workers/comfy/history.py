"""Polls /history and /queue for one prompt, decides when to give up, and interprets the history. No time is read here.

`ExecutionPolicy` has the time limits of the driver, of which the poll uses some.
"""

from dataclasses import dataclass

from workers.comfy.engine import ComfyEngine, EngineSilent, History, PromptQueue
from workers.errors import EngineStalled, EngineUnavailable, JobCancelled, NodeFailed, OutOfMemory, WorkerError
from workflows.messages import ExecutionError, ExecutionInterrupted


@dataclass(frozen=True, slots=True)
class ExecutionPolicy:
    """Times in seconds.

    poll_s               between two polls of the history, the source of truth
    settle_s, settling_s between polls, and for how long, after a message that reports the end
    reconnect_s          before the first reconnect after the socket closed; doubled up to eight times this
    connect_s            for the first socket; without one the prompt is submitted all the same
    linger_s             for the last messages once history shows the end (SaveImageWebsocket's images)
    broken_s             for which failed requests are repeated: nothing listens, or the response is invalid
    silent_s             the same for requests that time out, since loading a model can delay every response
    absent_s             for which a prompt may be neither queued nor recorded before it is given up
    idle_s               for which it may be queued while nothing runs; then the execution thread is dead
    interrupt_every_s    between two interrupts, which can be lost
    interrupt_grace_s    until a prompt that ignores interrupts, or an engine that does not answer them, counts as stuck
    withdraw_s           for an abandoned prompt to leave ComfyUI's queue, and for the history of any to be deleted
    stall_s              without any message; None waits for ever
    """

    poll_s: float = 1.0
    settle_s: float = 0.05
    settling_s: float = 2.0
    reconnect_s: float = 0.25
    connect_s: float = 10.0
    linger_s: float = 1.0
    broken_s: float = 3.0
    silent_s: float = 120.0
    absent_s: float = 1.0
    idle_s: float = 30.0
    interrupt_every_s: float = 0.5
    interrupt_grace_s: float = 10.0
    withdraw_s: float = 1.0
    stall_s: float | None = 600.0


LONGEST_MESSAGE = 4000
"""Maximum characters of an exception: some nodes put whole tensors into theirs."""


def failure_of(history: History, *, cancelled: bool) -> WorkerError | None:
    """Return why the prompt failed; None if it succeeded."""
    # The status decides: a blocked branch leaves an error message although the prompt succeeds.
    if history.status_str == "success":
        return None
    # An interrupt has the status of an error. The last of the two messages distinguishes them.
    for message in reversed(history.messages):
        match message:
            case ExecutionInterrupted():
                if cancelled:
                    return JobCancelled("interrupted")
                return EngineUnavailable("someone else interrupted this ComfyUI")
            case ExecutionError():
                return _node_failure(message)
    return NodeFailed("ComfyUI reports a failure without a reason")


def _node_failure(error: ExecutionError) -> NodeFailed | OutOfMemory:
    kind = OutOfMemory if error.exception_type.endswith("OutOfMemoryError") else NodeFailed
    return kind(
        error.exception_message.strip()[:LONGEST_MESSAGE] or error.exception_type,
        node_id=error.node_id,
        class_type=error.node_type,
        exception_type=error.exception_type,
    )


class PromptVanished(EngineUnavailable):
    """The prompt is neither queued nor recorded, so further polls are useless."""


class PromptPoll:
    """`now` is the caller's monotonic clock, in seconds."""

    def __init__(self, engine: ComfyEngine, prompt_id: str, policy: ExecutionPolicy) -> None:
        self._engine = engine
        self._prompt_id = prompt_id
        self._policy = policy
        self._failing_since: float | None = None
        self._absent_since: float | None = None
        self._idle_since: float | None = None

    async def ask(self, now: float) -> History | None:
        """Return the history, None while there is none.

        Raises `EngineUnavailable` if the engine has failed for too long, `EngineStalled` if it executes nothing.
        """
        queue = PromptQueue()
        try:
            history = await self._engine.history(self._prompt_id)
            if history is None:
                queue = await self._engine.queue()
                if self._prompt_id not in queue:  # it may have ended between the two requests
                    history = await self._engine.history(self._prompt_id)
        except EngineUnavailable as error:
            self._tolerate(error, now)
            return None
        self._failing_since = None
        if history is None:
            self._check_queue(queue, now)
        return history

    def _tolerate(self, error: EngineUnavailable, now: float) -> None:
        """Raise the error once it has lasted too long."""
        self._failing_since = _since(self._failing_since, now)
        # A refused connection means that the process and its queue are lost; a timeout may be harmless.
        tolerated_s = self._policy.silent_s if isinstance(error, EngineSilent) else self._policy.broken_s
        if now - self._failing_since >= tolerated_s:
            raise error

    def _check_queue(self, queue: PromptQueue, now: float) -> None:
        self._absent_since = _since(self._absent_since, now) if self._prompt_id not in queue else None
        if self._absent_since is not None and now - self._absent_since >= self._policy.absent_s:
            raise PromptVanished("ComfyUI no longer knows the prompt: it was restarted, or its queue was cleared")
        is_idle = self._prompt_id in queue.waiting and not queue.running
        self._idle_since = _since(self._idle_since, now) if is_idle else None
        if self._idle_since is not None and now - self._idle_since >= self._policy.idle_s:
            raise EngineStalled("ComfyUI answers, but executes nothing: its worker thread is dead")


def _since(known: float | None, now: float) -> float:
    return now if known is None else known
