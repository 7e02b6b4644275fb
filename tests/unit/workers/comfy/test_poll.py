"""When the driver stops polling: the limit for each kind of failure, with simulated time."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from workers.comfy.engine import ComfyEngine, EngineSilent, History, PromptQueue
from workers.comfy.history import ExecutionPolicy, PromptPoll, PromptVanished
from workers.errors import EngineStalled, EngineUnavailable

pytestmark = pytest.mark.anyio

POLICY = ExecutionPolicy(broken_s=3.0, silent_s=120.0, absent_s=1.0)
DONE = History("success", True, {}, ())
RUNNING = PromptQueue(running=frozenset({"p"}))
Answer = History | EngineUnavailable | None


class Answering:
    """An engine with scripted answers; a prompt without history runs, waits or is absent."""

    def __init__(self, *, queued: bool = True) -> None:
        self.answer: Answer = None
        self.then: Iterator[Answer] = iter(())
        self.present = RUNNING if queued else PromptQueue()

    async def history(self, prompt_id: str) -> History | None:
        answer = next(self.then, self.answer)
        if isinstance(answer, EngineUnavailable):
            raise answer
        return answer

    async def queue(self) -> PromptQueue:
        return self.present


def poll_of(engine: Answering) -> PromptPoll:
    return PromptPoll(cast("ComfyEngine", cast("Any", engine)), "p", POLICY)


@pytest.mark.parametrize(("failure", "patience_s"), [(EngineUnavailable("refused"), 3.0), (EngineSilent("slow"), 120)])
async def test_each_failure_has_its_time_limit(failure: EngineUnavailable, patience_s: float) -> None:
    """A refused connection is tolerated for seconds and a time-out for minutes, because loading a model can block
    answers."""
    engine = Answering()
    engine.answer = failure
    poll = poll_of(engine)
    assert await poll.ask(10.0) is None
    assert await poll.ask(10.0 + patience_s - 0.1) is None
    with pytest.raises(type(failure)):
        await poll.ask(10.0 + patience_s)


async def test_an_answer_restarts_the_time_limit() -> None:
    """Failures are timed from the last answer."""
    engine = Answering()
    poll = poll_of(engine)
    for now in range(0, 100, 2):
        engine.answer = EngineUnavailable("reset") if now % 4 else None
        assert await poll.ask(float(now)) is None
    engine.answer = DONE
    assert await poll.ask(100.0) is DONE


async def test_a_refused_connection_ends_the_longer_limit() -> None:
    """A connection refused after silence means that the process has died, so the longer limit ends."""
    engine = Answering()
    poll = poll_of(engine)
    engine.answer = EngineSilent("slow")
    assert await poll.ask(0.0) is None
    engine.answer = EngineUnavailable("refused")
    with pytest.raises(EngineUnavailable):
        await poll.ask(30.0)


async def test_a_prompt_vanishes_only_after_a_while() -> None:
    """A prompt in neither queue nor history vanishes after a while, and reappearing restarts that time."""
    engine = Answering(queued=False)
    poll = poll_of(engine)
    assert await poll.ask(0.0) is None
    engine.present = RUNNING
    assert await poll.ask(0.9) is None
    engine.present = PromptQueue()
    assert await poll.ask(1.5) is None
    with pytest.raises(PromptVanished):
        await poll.ask(2.5)


async def test_a_prompt_that_ends_between_two_requests_is_found() -> None:
    """History is read again if a prompt leaves the queue between the two requests."""
    engine = Answering(queued=False)
    engine.then = iter([None, DONE])
    assert await poll_of(engine).ask(0.0) is DONE


async def test_a_prompt_that_waits_while_nothing_runs_stalls() -> None:
    """A prompt that waits while nothing runs fails, because ComfyUI's execution thread is dead although HTTP
    answers."""
    engine = Answering()
    engine.present = PromptQueue(waiting=frozenset({"p", "another"}))
    poll = poll_of(engine)
    for now in (5.0, 20.0, 34.9):
        assert await poll.ask(now) is None
    with pytest.raises(EngineStalled, match="worker thread is dead"):
        await poll.ask(35.0)


async def test_a_prompt_may_wait_behind_another() -> None:
    """A prompt may wait behind others, and the limit restarts whenever the server runs one."""
    engine = Answering()
    poll = poll_of(engine)
    busy, idle = (PromptQueue(running, frozenset({"p"})) for running in (frozenset({"another"}), frozenset[str]()))
    for now in range(1, 200, 10):
        engine.present = busy if now % 20 == 1 else idle
        assert await poll.ask(float(now)) is None
