"""The driver against a scripted ComfyUI: faults that a well-behaved server shows only by chance."""

import asyncio
import json
import struct
from dataclasses import replace
from typing import Any

import pytest

from tests.support.follower import ERROR, PICTURE, QUICK, Follower, completed, never, refused, simple
from tests.support.scripted_comfy import Answer, ComfyState, Play, serving
from tests.support.waiting import until
from workers.comfy.execution import MOST_DELIVERED
from workers.comfy.http import MAX_ANSWER_BYTES
from workers.comfy.inbox import MAX_INBOX_WEIGHT
from workers.errors import (
    EngineUnavailable,
    NodeFailed,
    OutOfMemory,
    PromptRefused,
    WorkerError,
)
from workflows.json_weight import WEIGHT_OF_PART
from workflows.messages import MAX_FRAME_WEIGHT, Executing, Message, Preview, Progress

pytestmark = pytest.mark.anyio


async def test_messages_are_followed_to_the_end() -> None:
    """The last message ends the prompt, and an output that history repeats is delivered once."""
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
    """A prompt has not ended before history lists it, even if it is in no queue for a moment."""

    async def script(play: Play) -> None:
        await play.say("execution_success")
        if not still_queued:
            play.state.queue.clear()
        await asyncio.sleep(0.2)
        play.record({"1": PICTURE})
        await play.say("executing", node=None)

    assert (await completed(script)).outputs() == {"1": PICTURE}


async def test_a_broken_socket_loses_no_output() -> None:
    """Outputs whose messages were lost are delivered from history, and all others once."""

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
    """A socket that stays open without messages does not hide the end, because history shows it."""

    async def script(play: Play) -> None:
        await play.say("execution_start")
        await asyncio.sleep(0.2)
        play.record({"1": PICTURE})

    assert (await completed(script)).outputs() == {"1": PICTURE}


async def test_a_prompt_runs_without_a_socket() -> None:
    """A prompt runs although the socket is refused, and its outputs are delivered at the end."""

    async def script(play: Play) -> None:
        play.record({"1": PICTURE})

    follower = await completed(script, ComfyState(refuses_sockets=True), replace(QUICK, connect_s=0.1))
    assert follower.outputs() == {"1": PICTURE}


async def test_pictures_sent_just_before_the_end_are_not_lost() -> None:
    """Frames that are still unread when history shows the end are delivered."""

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


async def test_messages_of_other_prompts_are_ignored() -> None:
    """Messages of other prompts are dropped, and messages without an id count only while this prompt runs."""

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


async def test_bare_nan_becomes_null() -> None:
    """NaN and Infinity in messages and in history become null."""

    async def script(play: Play) -> None:
        ui = '{"value":[NaN,-Infinity,1]}'
        executed = f'{{"prompt_id":"{play.prompt_id}","node":"1","display_node":"1","output":{ui}}}'
        await play.say_raw(f'{{"type":"executed","data":{executed}}}')
        play.record({"1": json.loads(ui), "2": {"value": [float("inf")]}})

    assert (await completed(script)).outputs() == {"1": {"value": [None, None, 1]}, "2": {"value": [None]}}


@pytest.mark.parametrize(
    "entry",
    [{"status": {"status_str": "success", "messages": 5}}, {"status": {"status_str": "success"}, "outputs": [1, 2]}],
    ids=["messages", "outputs"],
)
async def test_an_entry_of_another_form_ends_the_prompt(entry: dict[str, Any]) -> None:
    """Members of a history entry that are no list or object are read as empty ones."""

    async def script(play: Play) -> None:
        await play.say("executed", node="1", display_node="1", output=PICTURE)
        await play.succeed({})
        play.state.history[play.prompt_id] = entry

    assert (await completed(script)).outputs() == {"1": PICTURE}


async def test_a_blocked_branch_is_not_a_failure() -> None:
    """An error message that is followed by success, as a blocked branch causes, does not fail the prompt."""

    async def script(play: Play) -> None:
        await play.say("execution_error", **ERROR)
        await play.say("execution_success")
        play.record({"1": PICTURE}, "success", [["execution_error", {"prompt_id": play.prompt_id, **ERROR}]])
        await play.say("executing", node=None)

    assert (await completed(script)).outputs() == {"1": PICTURE}


@pytest.mark.parametrize(
    ("exception_type", "error"), [("RuntimeError", NodeFailed), ("torch.OutOfMemoryError", OutOfMemory)]
)
async def test_a_failed_node_is_reported(exception_type: str, error: type[WorkerError]) -> None:
    """The failure names node, class and exception, and outputs finished before are delivered."""

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


async def test_a_partly_bad_strict_prompt_is_withdrawn() -> None:
    """A strict prompt that is accepted with node errors is deleted and interrupted until it is gone."""
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


async def test_a_lost_response_does_not_run_the_prompt_twice() -> None:
    """A prompt whose response was lost is found in the queue and not posted again."""
    state = ComfyState(answers=[Answer(None, accept=True)])
    assert (await completed(simple, state)).outputs() == {"1": PICTURE}
    assert len(state.posts) == 1


async def test_a_lost_request_is_repeated() -> None:
    """A prompt whose connection broke before it was accepted is posted again."""
    state = ComfyState(answers=[Answer(None)])
    assert (await completed(simple, state)).outputs() == {"1": PICTURE}
    assert len(state.posts) == 2


async def test_a_queued_prompt_is_followed_despite_a_500() -> None:
    """A prompt that was queued despite a 500, as equal queue numbers cause, is followed to its end."""
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
async def test_refusals_are_distinguished(answer: Answer, error: type[WorkerError]) -> None:
    """A refusal by ComfyUI is the prompt's error, and a refusal by a proxy means that the engine is unavailable."""
    _, failure = await refused(never, error, ComfyState(answers=[answer]))
    assert failure.message


async def test_pictures_wait_in_the_engine_while_the_consumer_is_busy() -> None:
    """The socket is not read while the inbox is full, and no picture is lost."""
    pictures = 12
    frame = struct.pack(">II", 1, 2) + bytes(MAX_INBOX_WEIGHT // 4)

    async def script(play: Play) -> None:
        await play.say("execution_start")
        for _ in range(pictures):
            await play.say_raw(frame)
        await play.succeed({})

    async with serving(script) as server:
        follower = Follower(server.url)
        inbox = follower.socket.inbox
        waited: list[int] = []

        async def be_busy(_: Message) -> None:
            if not waited:
                await until(lambda: inbox.is_full)
                for _turn in range(100):  # turns in which an unlimited socket would be read on
                    await asyncio.sleep(0)
                waited.append(len(inbox))

        await follower.follow(be_busy)
    assert waited == [4]
    assert len([message for message in follower.messages if isinstance(message, Preview)]) == pictures


async def test_nodes_that_are_remembered_are_limited() -> None:
    """Of more nodes than a graph can have, the outputs come from history."""
    last = f"n{MOST_DELIVERED}"

    async def script(play: Play) -> None:
        for number in range(MOST_DELIVERED + 2):
            await play.say("executed", node=f"n{number}", output={})
        await play.succeed({last: {"text": ["a"]}})

    outputs = (await completed(script, policy=replace(QUICK, linger_s=10.0))).outputs()
    assert len(outputs) == MOST_DELIVERED + 1
    assert outputs[last] == {"text": ["a"]}


async def test_a_message_with_too_many_values_is_not_parsed() -> None:
    """A message whose lists weigh too much is dropped, and the output that it reports comes from history."""
    many: dict[str, Any] = {"lists": [[]] * (MAX_FRAME_WEIGHT // WEIGHT_OF_PART)}

    async def script(play: Play) -> None:
        await play.say("executed", node="1", display_node="1", output={"text": ["a"], "more": many})
        await play.say("executed", node="2", display_node="2", output={"text": ["b"]})
        await play.succeed({"1": {"text": ["a"]}, "2": {"text": ["b"]}})

    assert (await completed(script)).outputs() == {"2": {"text": ["b"]}, "1": {"text": ["a"]}}


async def test_a_slow_consumer_does_not_block_the_socket() -> None:
    """The socket is read while the consumer is busy, and the consumer gets only the latest snapshots."""
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
        follower = Follower(server.url, replace(QUICK, linger_s=10.0))  # 8 MB of messages on a busy machine
        await follower.follow(wait)
    steps = [message.value for message in follower.messages if isinstance(message, Progress)]
    assert steps[-1] == snapshots - 1
    assert len(steps) < snapshots
    assert follower.outputs() == {"1": PICTURE}
