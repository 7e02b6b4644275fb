"""The driver when a prompt or the engine must stop: interrupts, stalls and crashes."""

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


async def test_a_vanished_prompt_means_a_lost_engine() -> None:
    """A prompt that is neither queued nor in history was lost by the engine; outputs received before are delivered."""

    async def script(play: Play) -> None:
        await play.say("executed", node="1", display_node="1", output=PICTURE)
        play.state.queue.clear()

    follower, _ = await refused(script, EngineUnavailable)
    assert follower.outputs() == {"1": PICTURE}


async def test_a_dead_engine_is_detected() -> None:
    """A refused connection ends the job within seconds, without waiting as for a busy engine."""
    async with serving(never) as server:
        follower = Follower(server.url)
        following = asyncio.create_task(follower.follow())
        await server.state.until(lambda: bool(server.state.queue))
        await server.die()
        with pytest.raises(EngineUnavailable):
            await following


async def test_unreadable_history_ends_the_job() -> None:
    """A history that stays unreadable, after an output that cannot be serialised, ends the job."""
    await refused(never, EngineUnavailable, ComfyState(broken_history=True))


async def test_a_stalled_prompt_is_detected() -> None:
    """A queued prompt without any message for longer than the policy allows counts as stalled."""
    await refused(never, EngineStalled, policy=replace(QUICK, stall_s=0.3))


async def test_an_engine_with_a_dead_thread_is_detected() -> None:
    """An engine that answers HTTP but never runs the queued prompt counts as stalled."""
    await refused(never, EngineStalled, ComfyState(thread_is_dead=True), policy=replace(QUICK, idle_s=0.3))


async def test_a_lost_engine_names_the_running_node() -> None:
    """The crash of an engine is attributed to the node that was running."""

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


async def test_interrupts_are_repeated_until_one_acts() -> None:
    """A prompt whose first two interrupts are lost is stopped by the third."""

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


async def test_a_cancelled_prompt_may_vanish() -> None:
    """A cancelled prompt that is in neither queue nor history counts as cancelled."""

    async def script(play: Play) -> None:
        await play.say("execution_start")
        await play.until_interrupted()
        play.state.queue.clear()

    async with serving(script) as server:
        follower = Follower(server.url)
        with pytest.raises(JobCancelled):
            await follower.follow(lambda _: follower.execution.cancel())


async def test_a_prompt_may_succeed_before_the_interrupt_acts() -> None:
    """A prompt that succeeds despite its cancellation delivers its outputs."""

    async def script(play: Play) -> None:
        await play.say("execution_start")
        await play.until_interrupted()
        await play.succeed({"1": PICTURE})

    async with serving(script) as server:
        follower = Follower(server.url)
        await follower.follow(lambda _: follower.execution.cancel())
    assert follower.outputs() == {"1": PICTURE}


async def test_an_engine_that_ignores_interrupts_is_stalled() -> None:
    """An engine that still runs a prompt after the grace period of its interrupts counts as stalled."""

    async def script(play: Play) -> None:
        await play.say("execution_start")
        await never(play)

    async with serving(script) as server:
        follower = Follower(server.url, replace(QUICK, interrupt_grace_s=1.5))
        with pytest.raises(EngineStalled):
            await follower.follow(lambda _: follower.execution.cancel())
        assert len(server.state.interrupts) > 1


async def test_an_execution_cancelled_before_its_submission_posts_nothing() -> None:
    """An execution that is cancelled before its submission posts no prompt."""
    async with serving(never) as server:
        follower = Follower(server.url)
        follower.execution.cancel()
        with pytest.raises(JobCancelled):
            await follower.follow()
        assert server.state.posts == []


async def test_a_foreign_interrupt_is_not_the_nodes_fault() -> None:
    """An interrupt that this driver did not send counts as a failure of the engine and not of the node."""

    async def script(play: Play) -> None:
        record = {"prompt_id": play.prompt_id, "node_id": "1", "node_type": "A", "executed": []}
        play.record({}, "error", [["execution_error", {**ERROR, **record}], ["execution_interrupted", record]])

    await refused(script, EngineUnavailable)
