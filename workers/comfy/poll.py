"""What /history and /queue say of one prompt, and when to give up asking.

`now` is the caller's monotonic clock, in seconds: no time is read here.
"""

from workers.comfy.engine import ComfyEngine, EngineSilent, History, PromptQueue
from workers.comfy.policy import ExecutionPolicy
from workers.errors import EngineStalled, EngineUnavailable


class PromptVanished(EngineUnavailable):
    """The prompt is neither queued nor recorded: polling on would be in vain."""


class PromptPoll:
    def __init__(self, engine: ComfyEngine, prompt_id: str, policy: ExecutionPolicy) -> None:
        self._engine = engine
        self._prompt_id = prompt_id
        self._policy = policy
        self._failing_since: float | None = None
        self._absent_since: float | None = None
        self._idle_since: float | None = None

    async def ask(self, now: float) -> History | None:
        """The history if it is there. `EngineUnavailable` when the engine failed for too long, `EngineStalled` when
        it executes nothing; until then None."""
        queue = PromptQueue()
        try:
            history = await self._engine.history(self._prompt_id)
            if history is None:
                queue = await self._engine.queue()
                if self._prompt_id not in queue:  # it may have ended between the two questions
                    history = await self._engine.history(self._prompt_id)
        except EngineUnavailable as error:
            self._bear(error, now)
            return None
        self._failing_since = None
        if history is None:
            self._judge(queue, now)
        return history

    def _bear(self, error: EngineUnavailable, now: float) -> None:
        """A refused connection means that the process is gone, and its queue with it; silence may mean little."""
        self._failing_since = _since(self._failing_since, now)
        patience_s = self._policy.silent_s if isinstance(error, EngineSilent) else self._policy.broken_s
        if now - self._failing_since >= patience_s:
            raise error

    def _judge(self, queue: PromptQueue, now: float) -> None:
        self._absent_since = _since(self._absent_since, now) if self._prompt_id not in queue else None
        if self._absent_since is not None and now - self._absent_since >= self._policy.absent_s:
            raise PromptVanished("ComfyUI no longer knows the prompt: it was restarted, or its queue was cleared")
        is_idle = self._prompt_id in queue.waiting and not queue.running
        self._idle_since = _since(self._idle_since, now) if is_idle else None
        if self._idle_since is not None and now - self._idle_since >= self._policy.idle_s:
            raise EngineStalled("ComfyUI answers, but executes nothing: its worker thread is dead")


def _since(known: float | None, now: float) -> float:
    return now if known is None else known
