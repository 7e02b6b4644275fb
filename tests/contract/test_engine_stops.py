"""The driver where a prompt must stop, or the engine does: interrupts, stalls, deaths."""

import asyncio
from dataclasses import replace

import pytest

from tests.support.follower import ERROR, PICTURE, QUICK, Follower, never, refused
from tests.support.scripted_comfy import ComfyState, Play, serving
from workers.errors import (
    EngineStalled,
    EngineUnavailable,
    JobCancelled,
)
from workflows.messages import Executing, Message

pytestmark = pytest.mark.anyio


async def test_a_prompt_that_vanishes() -> None:
    """Neither queued nor recorded, for longer than a moment: the engine lost it. What it told before is delivered."""

    async def script(play: Play) -> None:
        await play.say("executed", node="1", display_node="1", output=PICTURE)
        play.state.queue.clear()

    follower, _ = await refused(script, EngineUnavailable)
    assert follower.outputs() == {"1": PICTURE}


async def test_an_engine_that_dies() -> None:
    """A refused connection ends the job within seconds, not after the patience for a busy engine."""
    async with serving(never) as server:
        follower = Follower(server.url)
        following = asyncio.create_task(follower.follow())
        await server.state.until(lambda: bool(server.state.queue))
        await server.die()
        with pytest.raises(EngineUnavailable):
            await following


async def test_history_that_cannot_be_read() -> None:
    """A node's unserialisable output breaks /history for good: the job ends instead of polling for ever."""
    await refused(never, EngineUnavailable, ComfyState(broken_history=True))


async def test_a_stalled_prompt() -> None:
    """Queued, and no sign of life for longer than the policy allows."""
    await refused(never, EngineStalled, policy=replace(QUICK, stall_s=0.3))


async def test_an_engine_whose_thread_is_dead() -> None:
    """HTTP answers, the prompt waits, and nothing ever runs."""
    await refused(never, EngineStalled, ComfyState(thread_is_dead=True), policy=replace(QUICK, idle_s=0.3))


async def test_a_lost_engine_names_the_node_that_ran() -> None:
    """It is the likely culprit: a result that cannot be serialised takes the process along."""

    async def script(play: Play) -> None:
        await play.say("execution_start")
        await play.say("executing", node="1", display_node="1")

    async with serving(script) as server:

        async def die(message: Message) -> None:
            if isinstance(message, Executing):
                await server.die()

        follower = Follower(server.url)
        with pytest.raises(EngineUnavailable) as lost:
            await follower.follow(die)
    assert (lost.value.node_id, lost.value.class_type) == ("1", "A")


async def test_interrupts_are_repeated_until_one_is_heard() -> None:
    """The first two are lost; the third stops the prompt."""

    async def script(play: Play) -> None:
        await play.say("execution_start")
        await play.until_interrupted(times=3)
        record = {"prompt_id": play.prompt_id, "node_id": "1", "node_type": "A", "executed": []}
        await play.say("execution_interrupted", **record)
        play.record({"1": PICTURE}, "error", [["execution_interrupted", record]])
        await play.say("executing", node=None)

    async with serving(script) as server:
        follower = Follower(server.url)
        with pytest.raises(JobCancelled):
            await follower.follow(lambda _: follower.execution.cancel())
        assert server.state.deletes[0] == follower.prompt.prompt_id
    assert follower.outputs() == {"1": PICTURE}


async def test_a_cancelled_prompt_that_was_still_queued() -> None:
    """ComfyUI deletes it without a word: gone from queue and history means cancelled."""

    async def script(play: Play) -> None:
        await play.say("execution_start")
        await play.until_interrupted()
        play.state.queue.clear()

    async with serving(script) as server:
        follower = Follower(server.url)
        with pytest.raises(JobCancelled):
            await follower.follow(lambda _: follower.execution.cancel())


async def test_a_prompt_that_ends_before_the_interrupt_acts() -> None:
    """Success is success, even if a cancellation was asked for."""

    async def script(play: Play) -> None:
        await play.say("execution_start")
        await play.until_interrupted()
        await play.succeed({"1": PICTURE})

    async with serving(script) as server:
        follower = Follower(server.url)
        await follower.follow(lambda _: follower.execution.cancel())
    assert follower.outputs() == {"1": PICTURE}


async def test_interrupts_that_are_ignored() -> None:
    """After the grace the engine counts as stuck."""

    async def script(play: Play) -> None:
        await play.say("execution_start")
        await never(play)

    async with serving(script) as server:
        follower = Follower(server.url, replace(QUICK, interrupt_grace_s=1.5))
        with pytest.raises(EngineStalled):
            await follower.follow(lambda _: follower.execution.cancel())
        assert len(server.state.interrupts) > 1


async def test_cancelled_before_it_was_submitted() -> None:
    """Nothing is posted."""
    async with serving(never) as server:
        follower = Follower(server.url)
        follower.execution.cancel()
        with pytest.raises(JobCancelled):
            await follower.follow()
        assert server.state.posts == []


async def test_someone_else_interrupts() -> None:
    """An interrupt that was not ours is the engine's fault, not the node's."""

    async def script(play: Play) -> None:
        record = {"prompt_id": play.prompt_id, "node_id": "1", "node_type": "A", "executed": []}
        play.record({}, "error", [["execution_error", {**ERROR, **record}], ["execution_interrupted", record]])

    await refused(script, EngineUnavailable)
