"""What /history and /queue say of one prompt, and when to give up asking.

`now` is the caller's monotonic clock, in seconds: no time is read here.
"""

from workers.comfy.engine import ComfyEngine, EngineSilent, History
from workers.comfy.policy import ExecutionPolicy
from workers.errors import EngineUnavailable


class PromptVanished(EngineUnavailable):
    """The prompt is neither queued nor recorded: polling on would be in vain."""


class PromptPoll:
    def __init__(self, engine: ComfyEngine, prompt_id: str, policy: ExecutionPolicy) -> None:
        self._engine = engine
        self._prompt_id = prompt_id
        self._policy = policy
        self._failing_since: float | None = None
        self._absent_since: float | None = None

    async def ask(self, now: float) -> History | None:
        """The history if it is there. `EngineUnavailable` when the engine failed for too long; until then None."""
        try:
            history = await self._engine.history(self._prompt_id)
            absent = history is None and not await self._engine.is_queued(self._prompt_id)
            if absent:  # it may have ended between the two questions
                history = await self._engine.history(self._prompt_id)
        except EngineUnavailable as error:
            self._bear(error, now)
            return None
        self._failing_since = None
        self._miss(now, absent=absent and history is None)
        return history

    def _bear(self, error: EngineUnavailable, now: float) -> None:
        """A refused connection means that the process is gone, and its queue with it; silence may mean little."""
        self._failing_since = now if self._failing_since is None else self._failing_since
        patience_s = self._policy.silent_s if isinstance(error, EngineSilent) else self._policy.broken_s
        if now - self._failing_since >= patience_s:
            raise error

    def _miss(self, now: float, *, absent: bool) -> None:
        if not absent:
            self._absent_since = None
            return
        self._absent_since = now if self._absent_since is None else self._absent_since
        if now - self._absent_since >= self._policy.absent_s:
            raise PromptVanished("ComfyUI no longer knows the prompt: it was restarted, or its queue was cleared")
