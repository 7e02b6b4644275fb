"""Messages and progress, replayed from recordings of a real ComfyUI."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.graph import parse_graph
from workflows.messages import (
    LONGEST_ID,
    Executed,
    Executing,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionSuccess,
    Message,
    Preview,
    ProgressText,
    Unknown,
    decode_binary,
    decode_pair,
    decode_text,
)
from workflows.progress import ProgressModel

FIXTURES = Path(__file__).parent / "fixtures"


def recorded(scenario: str) -> tuple[dict[str, Any], list[Message]]:
    document = json.loads((FIXTURES / f"{scenario}.json").read_text())
    return document["workflow"], [decode_text(json.dumps(message)) for message in document["messages"]]


def replay(scenario: str) -> list[ProgressModel]:
    """Return the model after each message, with all nodes of the workflow executed."""
    workflow, messages = recorded(scenario)
    models = [ProgressModel.start(parse_graph(workflow).nodes)]
    for message in messages:
        models.append(models[-1].reduce(message))
    return models


def test_every_recorded_message_is_known() -> None:
    """No message of the recorded scenarios is decoded as `Unknown`."""
    for fixture in FIXTURES.glob("*.json"):
        unknown = [message for message in recorded(fixture.stem)[1] if isinstance(message, Unknown)]
        assert not unknown, fixture.stem


def test_progress_without_a_sampler_is_the_share_of_finished_nodes() -> None:
    """Four nodes count 25 % each, and 100 is reached only at the end."""
    percents = [model.percent for model in replay("s02_load_scale_invert_save")]
    assert [p for n, p in enumerate(percents) if n == 0 or p != percents[n - 1]] == [0, 25, 50, 75, 99, 100]


def test_progress_blends_nodes_and_steps() -> None:
    """Once the sampler has started, its steps make up half of the percentage."""
    models = replay("s10_progress_preview")
    sampling = next(model for model in models if model.step == "4/8")
    assert sampling.percent == int(50 * sampling.nodes_completed / sampling.nodes_total + 50 * 4 / 8)
    assert models[-1].percent == 100


def test_cached_nodes_count_as_finished() -> None:
    """A prompt that is entirely cached is finished at once."""
    workflow, messages = recorded("s11_cached_twice")
    second = [n for n, message in enumerate(messages) if type(message).__name__ == "ExecutionCached"][1]
    model = ProgressModel.start(parse_graph(workflow).nodes).reduce(messages[second])
    assert model.nodes_completed == model.nodes_total


def test_expanded_nodes_count_towards_their_origin() -> None:
    """Nodes created at run time do not raise the total, and the current node is always one of the workflow's."""
    for model in replay("s15_node_expansion"):
        assert model.nodes_completed <= model.nodes_total == 3
        assert model.current_node in (None, "1", "2", "3")


def test_nan_in_a_payload_becomes_null() -> None:
    """NaN and infinities, which ComfyUI sends bare, become null, because strict JSON lacks them."""
    message = decode_text('{"type":"executed","data":{"prompt_id":"p","node":"1","output":{"x":[NaN,Infinity]}}}')
    assert message == Executed("p", "1", "1", {"x": [None, None]})


def test_a_null_node_is_the_end_of_its_prompt() -> None:
    """ComfyUI's message with a null node and the prompt's id is the end of the prompt."""
    assert decode_text('{"type":"executing","data":{"node":null,"prompt_id":"p"}}') == Executing("p", None, None)


@pytest.mark.parametrize(
    "data",
    [
        *(
            f'{{"node":{node},"prompt_id":"p"}}'
            for node in ("NaN", "-Infinity", "1e999", "9" * 5_000, "[]", "{}", "1.5")
        ),
        '{"prompt_id":"p"}',
        '{"node":null}',
        '{"node":null,"prompt_id":NaN}',
        '{"node":null,"prompt_id":7}',
    ],
)
def test_no_other_node_is_the_end_of_a_prompt(data: str) -> None:
    """A message without a node, with a node that is no id, or without a prompt's id is not the end of a prompt."""
    assert isinstance(decode_text(f'{{"type":"executing","data":{data}}}'), Unknown)


def test_lone_surrogates_in_a_message_are_replaced() -> None:
    """Half of a surrogate pair in a node's id becomes U+FFFD, in a text message as in a preview's metadata."""
    named = r'"prompt_id":"p","node":"\ud800","node_id":"a\udc00"'
    assert decode_text(f'{{"type":"executing","data":{{{named}}}}}') == Executing("p", "\ufffd", None)
    metadata = f"{{{named}}}".encode()
    frame = struct.pack(">II", 4, len(metadata)) + metadata
    assert decode_binary(frame) == Preview("jpeg", b"", "a\ufffd", "p")


@pytest.mark.parametrize("value", ["-1e308", "-5", "1e308", "1e999", "NaN", "9" * 400, "9" * 5_000])
@pytest.mark.parametrize("maximum", ["5", "1e308", "9" * 400])
def test_any_progress_value_gives_a_percentage(value: str, maximum: str) -> None:
    """Any number that a node reports as its progress gives a percentage and a short step."""
    message = decode_text(f'{{"type":"progress","data":{{"prompt_id":"p","value":{value},"max":{maximum}}}}}')
    model = ProgressModel.start(["1"]).reduce(message)
    assert 0 <= model.percent <= 99
    assert "-" not in (model.step or "")
    assert len(model.step or "") < 30


def test_error_and_interrupt_are_distinguished() -> None:
    """A failed node is named with its exception, and an interrupt is not an error."""
    failed = next(m for m in recorded("s20_error_corrupt_file")[1] if isinstance(m, ExecutionError))
    assert failed.node_type == "LoadImage"
    assert any(isinstance(m, ExecutionInterrupted) for m in recorded("s40_interrupt")[1])


def test_a_prompt_ends_with_an_executing_without_a_node() -> None:
    """Every prompt ends with an `executing` message without a node, whatever its outcome."""
    for scenario in ("s02_load_scale_invert_save", "s20_error_corrupt_file", "s40_interrupt"):
        ends = [m for m in recorded(scenario)[1] if isinstance(m, Executing) and m.node is None]
        assert ends, scenario


def test_a_blocker_with_a_message_sends_error_and_success() -> None:
    """A blocker with a message causes both an error and a success message, so the error alone does not decide the
    outcome."""
    kinds = {type(message) for message in recorded("s17b_blocker_message")[1]}
    assert {ExecutionError, ExecutionSuccess} <= kinds


def test_binary_frames_are_decoded() -> None:
    """Previews with and without ids and progress texts are decoded."""
    assert decode_binary(struct.pack(">II", 1, 1) + b"jpg") == Preview("jpeg", b"jpg")
    assert decode_binary(struct.pack(">II", 1, 2) + b"png") == Preview("png", b"png")
    metadata = json.dumps({"node_id": "4", "prompt_id": "p", "image_type": "image/png"}).encode()
    frame = struct.pack(">II", 4, len(metadata)) + metadata + b"png"
    assert decode_binary(frame) == Preview("png", b"png", "4", "p")
    assert decode_binary(struct.pack(">II", 3, 1) + b"7hello") == ProgressText("7", "hello")


@pytest.mark.parametrize("node", ["x" * (LONGEST_ID + 1), ["1"], {"1": 2}, 10**1000])
def test_an_invalid_node_id_makes_a_message_unknown(node: object) -> None:
    """A message with an invalid node id is `Unknown`, because a job's record repeats the id for each output."""
    for kind in ("executing", "executed", "execution_error", "execution_interrupted", "progress"):
        data = {"prompt_id": "p", "node": node, "node_id": node, "node_type": "A", "value": 1, "max": 2}
        data |= {"exception_type": "E", "exception_message": "m"}
        assert isinstance(decode_pair(kind, data), Unknown), kind
    metadata = json.dumps({"node_id": node, "image_type": "image/png"}).encode()
    assert isinstance(decode_binary(struct.pack(">II", 4, len(metadata)) + metadata + b"png"), Unknown)


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda rest: b"\0\0\0\4" + rest))
def test_any_binary_frame_decodes(frame: bytes) -> None:
    """A malformed binary frame is `Unknown` and raises nothing."""
    decode_binary(frame)


kinds = st.sampled_from(["executed", "executing", "progress", "progress_state", "status", "execution_error", "x"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt_id", "node", "nodes", "status", "value", "max", "output", "state"]), inner
        )
    ),
)


@given(kinds, values)
def test_any_text_frame_decodes_and_reduces(kind: str, data: object) -> None:
    """Arbitrary data under a known message type neither raises nor breaks the progress."""
    message = decode_text(json.dumps({"type": kind, "data": data}))
    model = ProgressModel.start(["1", "2"]).reduce(message)
    assert 0 <= model.percent <= 100


@given(st.text(max_size=50))
def test_any_text_decodes(text: str) -> None:
    """A text frame that is not JSON is `Unknown`."""
    decode_text(text)
