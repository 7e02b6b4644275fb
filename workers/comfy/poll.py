"""Polls /history and /queue for one prompt, and decides when to give up.

`now` is the caller's monotonic clock, in seconds: no time is read here.
"""

from workers.comfy.engine import ComfyEngine, EngineSilent, History, PromptQueue
from workers.comfy.policy import ExecutionPolicy
from workers.errors import EngineStalled, EngineUnavailable


class PromptVanished(EngineUnavailable):
    """The prompt is neither queued nor recorded, so further polls are useless."""


class PromptPoll:
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
            self._bear(error, now)
            return None
        self._failing_since = None
        if history is None:
            self._judge(queue, now)
        return history

    def _bear(self, error: EngineUnavailable, now: float) -> None:
        """Raise the error once it has lasted too long.

        A refused connection means that the process and its queue are lost; a timeout may be harmless.
        """
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
