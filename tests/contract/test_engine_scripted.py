"""The driver against a ComfyUI that lies: every trap that a well-behaved server shows only by chance."""

import asyncio
import json
import struct
from dataclasses import replace

import pytest

from tests.support.follower import ERROR, PICTURE, QUICK, Follower, completed, never, refused, simple
from tests.support.scripted_comfy import Answer, ComfyState, Play, serving
from workers.comfy.http import MAX_ANSWER_BYTES
from workers.errors import (
    EngineUnavailable,
    NodeFailed,
    OutOfMemory,
    PromptRefused,
    WorkerError,
)
from workflows.messages import Executing, Message, Preview, Progress

pytestmark = pytest.mark.anyio


async def test_messages_are_followed_to_the_end() -> None:
    """The last message is the one that ends the prompt, and the output comes once, although history has it too."""
    state = ComfyState()
    follower = await completed(simple, state)
    assert isinstance(follower.messages[-1], Executing)
    assert follower.messages[-1].node is None
    assert follower.outputs() == {"1": PICTURE}
    assert state.first_frames == [{"type": "feature_flags", "data": {"supports_preview_metadata": True}}]
    (post,) = state.posts
    assert (post["prompt_id"], post["client_id"]) == (follower.prompt.prompt_id, follower.prompt.client_id)
    assert "number" not in post


@pytest.mark.parametrize("still_queued", [True, False])
async def test_history_may_lag_behind_success(still_queued: bool) -> None:
    """Success without history is not the end; a prompt that is nowhere for a moment has not vanished."""

    async def script(play: Play) -> None:
        await play.say("execution_success")
        if not still_queued:
            play.state.queue.clear()
        await asyncio.sleep(0.2)
        play.record({"1": PICTURE})
        await play.say("executing", node=None)

    assert (await completed(script)).outputs() == {"1": PICTURE}


async def test_a_broken_socket_loses_no_output() -> None:
    """Outputs whose message fell into the gap are delivered from history, those before and after it once."""

    async def script(play: Play) -> None:
        await play.say("execution_start")
        await play.say("executed", node="1", display_node="1", output=PICTURE)
        await play.cut()
        await play.say_raw('{"type":"executing","data":{"node":"3"}}')
        await play.say("executed", node="3", display_node="3", output={"text": ["c"]})
        await play.succeed({"1": PICTURE, "2": {"text": ["b"]}, "3": {"text": ["c"]}})

    state = ComfyState()
    follower = await completed(script, state)
    assert follower.outputs() == {"1": PICTURE, "2": {"text": ["b"]}, "3": {"text": ["c"]}}
    assert len(state.first_frames) == 2


async def test_a_half_open_socket_does_not_hide_the_end() -> None:
    """A socket that stays open and silent is no obstacle: history tells."""

    async def script(play: Play) -> None:
        await play.say("execution_start")
        await asyncio.sleep(0.2)
        play.record({"1": PICTURE})

    assert (await completed(script)).outputs() == {"1": PICTURE}


async def test_no_socket_at_all() -> None:
    """Where the socket is refused the job still runs, and its outputs arrive at the end."""

    async def script(play: Play) -> None:
        play.record({"1": PICTURE})

    follower = await completed(script, ComfyState(refuses_sockets=True), replace(QUICK, connect_s=0.1))
    assert follower.outputs() == {"1": PICTURE}


async def test_pictures_sent_just_before_the_end_are_not_lost() -> None:
    """History can be visible before the socket's last frames are read: they are waited for."""

    async def script(play: Play) -> None:
        await play.say("execution_start")
        play.record({})
        await asyncio.sleep(0.1)
        for _ in range(3):
            await play.say_raw(struct.pack(">II", 1, 2) + b"png")
        await play.say("executing", node=None)

    follower = await completed(script, policy=replace(QUICK, linger_s=10.0))
    pictures = [message for message in follower.messages if isinstance(message, Preview)]
    assert [picture.image_type for picture in pictures] == ["png"] * 3


async def test_what_others_broadcast_is_not_ours() -> None:
    """Messages of other prompts are dropped, and what carries no id counts only while ours runs."""

    async def script(play: Play) -> None:
        await play.say("progress", prompt_id="another", node="9", value=1, max=2)
        await play.say("executed", prompt_id="another", node="9", display_node="9", output={"text": ["secret"]})
        await play.say_raw(struct.pack(">II", 1, 1) + b"theirs")
        await play.say("execution_start")
        await play.say_raw(struct.pack(">II", 1, 1) + b"ours")
        await play.succeed({})

    follower = await completed(script)
    assert follower.outputs() == {}
    assert not any(isinstance(message, Progress) for message in follower.messages)
    assert [message.data for message in follower.messages if isinstance(message, Preview)] == [b"ours"]


async def test_bare_nan_is_survived() -> None:
    """NaN and Infinity, in messages and in history, become null."""

    async def script(play: Play) -> None:
        ui = '{"value":[NaN,-Infinity,1]}'
        executed = f'{{"prompt_id":"{play.prompt_id}","node":"1","display_node":"1","output":{ui}}}'
        await play.say_raw(f'{{"type":"executed","data":{executed}}}')
        play.record({"1": json.loads(ui), "2": {"value": [float("inf")]}})

    assert (await completed(script)).outputs() == {"1": {"value": [None, None, 1]}, "2": {"value": [None]}}


async def test_a_blocked_branch_is_not_a_failure() -> None:
    """An error message followed by success is what a blocker with a message leaves: history's status decides."""

    async def script(play: Play) -> None:
        await play.say("execution_error", **ERROR)
        await play.say("execution_success")
        play.record({"1": PICTURE}, "success", [["execution_error", {"prompt_id": play.prompt_id, **ERROR}]])
        await play.say("executing", node=None)

    assert (await completed(script)).outputs() == {"1": PICTURE}


@pytest.mark.parametrize(
    ("exception_type", "error"), [("RuntimeError", NodeFailed), ("torch.OutOfMemoryError", OutOfMemory)]
)
async def test_a_node_that_raises(exception_type: str, error: type[WorkerError]) -> None:
    """The failure names node, class and exception; outputs that were finished before are delivered."""

    async def script(play: Play) -> None:
        failed = {**ERROR, "prompt_id": play.prompt_id, "exception_type": exception_type}
        await play.say("executed", node="1", display_node="1", output=PICTURE)
        await play.say("execution_error", **failed)
        play.record({"1": PICTURE, "2": {"text": ["b"]}}, "error", [["execution_error", failed]])
        await play.say("executing", node=None)

    follower, failure = await refused(script, error)
    assert follower.outputs() == {"1": PICTURE, "2": {"text": ["b"]}}
    assert (failure.node_id, failure.class_type, failure.exception_type) == ("3", "KSampler", exception_type)
    assert failure.message == "boom"


async def test_a_partly_bad_prompt_that_is_strict_is_refused_and_withdrawn() -> None:
    """200 with node_errors: what was accepted is deleted and interrupted until it is gone."""
    node_errors = {"9": {"class_type": "SaveImage", "errors": [{"message": "Required input", "details": "images"}]}}

    async def script(play: Play) -> None:
        await play.until_interrupted(times=2)
        play.state.queue.clear()

    state = ComfyState(answers=[Answer(200, {"prompt_id": "x", "number": 0, "node_errors": node_errors}, accept=True)])
    follower, failure = await refused(script, PromptRefused, state, is_strict=True)
    assert (failure.node_id, failure.class_type) == ("9", "SaveImage")
    assert failure.message == "node 9 (SaveImage): Required input: images"
    assert failure.node_errors == node_errors
    assert state.interrupts.count(follower.prompt.prompt_id) >= 2
    assert state.queue == {}


async def test_a_lost_answer_does_not_run_the_prompt_twice() -> None:
    """The connection broke after the prompt was taken: it is found in the queue and not posted again."""
    state = ComfyState(answers=[Answer(None, accept=True)])
    assert (await completed(simple, state)).outputs() == {"1": PICTURE}
    assert len(state.posts) == 1


async def test_a_lost_question_is_asked_again() -> None:
    """The connection broke before the prompt was taken: it is posted once more."""
    state = ComfyState(answers=[Answer(None)])
    assert (await completed(simple, state)).outputs() == {"1": PICTURE}
    assert len(state.posts) == 2


async def test_500_although_it_was_queued() -> None:
    """Equal numbers in ComfyUI's queue do this: the prompt runs, so it is followed."""
    state = ComfyState(answers=[Answer(500, "500 Internal Server Error", accept=True)])
    assert (await completed(simple, state)).outputs() == {"1": PICTURE}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(500, "500 Internal Server Error\n\nServer got itself in trouble"), PromptRefused),
        (Answer(413, "Maximum request body size 1048576 exceeded"), PromptRefused),
        (Answer(400, {"error": {"type": "invalid_prompt", "message": "no", "details": ""}}), PromptRefused),
        (Answer(400, {"error": "no", "node_errors": []}), PromptRefused),
        (Answer(400, {"error": "no", "details": "x" * MAX_ANSWER_BYTES}), PromptRefused),
        (Answer(503, "upstream"), EngineUnavailable),
    ],
)
async def test_refusals(answer: Answer, error: type[WorkerError]) -> None:
    """What ComfyUI says no to is the prompt's fault; what a proxy in front of it says no to is not."""
    _, failure = await refused(never, error, ComfyState(answers=[answer]))
    assert failure.message


async def test_a_slow_consumer_does_not_hold_the_socket_up() -> None:
    """While the consumer is busy the socket is drained; of many snapshots it then sees the newest."""
    snapshots = 400
    everything_sent = asyncio.Event()

    async def script(play: Play) -> None:
        await play.say("execution_start")
        for step in range(snapshots):
            node = {"value": step, "max": snapshots, "state": "running", "node_id": "1", "padding": "x" * 20_000}
            await play.say("progress_state", nodes={"1": node})
            await play.say("progress", node="1", value=step, max=snapshots)
        await play.say("executed", node="1", display_node="1", output=PICTURE)
        everything_sent.set()
        await play.succeed({"1": PICTURE})

    async def wait(_: Message) -> None:
        await everything_sent.wait()

    async with serving(script) as server:
        follower = Follower(server.url)
        await follower.follow(wait)
    steps = [message.value for message in follower.messages if isinstance(message, Progress)]
    assert steps[-1] == snapshots - 1
    assert len(steps) < snapshots
    assert follower.outputs() == {"1": PICTURE}
