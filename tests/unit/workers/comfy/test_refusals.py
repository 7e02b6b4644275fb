"""The meaning of ComfyUI's answers to POST /prompt, with bodies recorded from 0.3.64 and 0.33."""

import json
from typing import Any

import pytest

from workers.comfy.refusals import LONGEST_MESSAGE, not_run, refusal, warnings_of
from workers.errors import EngineUnavailable, PromptRefused
from workflows.json_weight import WEIGHT_OF_PART
from workflows.node_errors import LONGEST_ERRORS, MOST_DEPENDENTS, bounded

MISSING = {"type": "required_input_missing", "message": "Required input is missing", "details": "images"}
SAVE_IMAGE = {"errors": [MISSING], "dependent_outputs": ["3"], "class_type": "SaveImage"}
UNKNOWN_OLD = {
    "type": "invalid_prompt",
    "message": "Cannot execute because node NoSuchNode does not exist.",
    "details": "Node ID '#1'",
    "extra_info": {},
}
UNKNOWN_NEW = {
    "type": "missing_node_type",
    "message": "Node 'NoSuchNode' not found. The custom node may not be installed.",
    "details": "Node ID '#1'",
    "extra_info": {"node_id": "1", "class_type": "NoSuchNode", "node_title": "NoSuchNode"},
}
NO_OUTPUTS = {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": "", "extra_info": {}}
FAILED = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation", "details": ""}


def test_only_200_accepts_a_prompt() -> None:
    """Only status 200 accepts a prompt; node errors in it refuse a strict prompt only."""
    assert refusal(200, {"prompt_id": "x", "number": 3, "node_errors": {}}, is_strict=True) is None
    partly = {"prompt_id": "x", "node_errors": {"3": SAVE_IMAGE}}
    assert refusal(200, partly) is None
    refused = refusal(200, partly, is_strict=True)
    assert isinstance(refused, PromptRefused)
    assert (refused.node_id, refused.message) == ("3", "node 3 (SaveImage): Required input is missing: images")


def test_warnings_keep_the_texts_of_the_submission_check() -> None:
    """Warnings keep the texts of the submission check and are otherwise those of the engine."""
    ring = {"errors": [{"type": "dependency_cycle"}], "dependent_outputs": ["9"], "detail": "a ring", "hint": ""}
    known: dict[str, Any] = {
        "3": {"detail": "node 3 lacks images", "hint": "link it", "errors": []},
        "7": {"detail": "it ran after all", "hint": "", "errors": []},
        "8": ring,
    }
    said = {"3": SAVE_IMAGE, "4": SAVE_IMAGE | {"dependent_outputs": ["4", 5]}, "odd": "x", "5": {"errors": 7}}
    warnings = warnings_of(said, known)
    assert {node_id: warning["detail"] for node_id, warning in warnings.items()} == {
        "3": "node 3 lacks images",
        "4": "node 4 (SaveImage): Required input is missing: images",
        "5": "node 5 (None): refused without a reason",
        "8": "a ring",
    }
    assert warnings["3"] == known["3"] | SAVE_IMAGE
    assert not_run(said, known) == {"3", "4", "5", "9"}


def test_the_errors_in_a_record_are_bounded() -> None:
    """Node errors are shortened, since many bad nodes before many outputs, or long values, would make them huge."""
    outputs = [f"output {number} ".ljust(200, "x") for number in range(900)]
    long_error = MISSING | {"extra_info": {"received_value": "x" * LONGEST_ERRORS}}
    lists_error: dict[str, Any] = MISSING | {
        "extra_info": {"received_value": [[]] * (LONGEST_ERRORS // WEIGHT_OF_PART)}
    }
    said = {
        f"node {number}": {
            "errors": [MISSING, long_error, lists_error],
            "dependent_outputs": outputs,
            "class_type": "ImageScale",
        }
        for number in range(900)
    }
    kept = bounded(said)
    assert len(json.dumps(kept)) < 512 * 1024
    assert kept["node 0"]["errors"] == [MISSING, *[{"type": MISSING["type"]}] * 2]
    assert kept["node 0"]["dependent_outputs"] == outputs[: len(kept["node 0"]["dependent_outputs"])] != []
    assert len(json.dumps(warnings_of(said, {}))) < 512 * 1024
    refused = refusal(400, {"error": FAILED, "node_errors": said})
    assert refused is not None
    assert refused.node_errors == kept
    assert not_run(said, {}) == frozenset(outputs)


def test_the_output_names_in_a_record_are_bounded_by_their_number() -> None:
    """At most MOST_DEPENDENTS output names of the engine's errors are kept, however short they are."""
    error = {"errors": [MISSING], "dependent_outputs": [str(number) for number in range(300)], "class_type": "A"}
    kept = bounded({str(number): error for number in range(9)})
    assert sum(len(about["dependent_outputs"]) for about in kept.values()) == MOST_DEPENDENTS


def test_many_or_long_errors_in_a_record_are_bounded() -> None:
    """Thousands of errors per node and names of a megabyte are shortened."""
    long = "x" * 1_000_000
    many = {
        "errors": [{"type": "x" * 10_000}] * 200,
        "dependent_outputs": [long, {"odd": long}],
        "class_type": long,
        "more": long,
    }
    said = {str(number): many for number in range(1_000)} | {long: many}
    assert len(json.dumps(bounded(said))) < 512 * 1024
    for body in ({"node_errors": {long: many}}, {"error": {"extra_info": {"node_id": long, "class_type": long}}}):
        refused = refusal(400, body)
        assert refused is not None
        assert refused.node_id is None
        assert len(refused.class_type or "") < 1_000


@pytest.mark.parametrize(
    ("status", "body", "node_id", "class_type", "words"),
    [
        (400, {"error": FAILED, "node_errors": {"3": SAVE_IMAGE}}, "3", "SaveImage", "Required input is missing"),
        (400, {"error": UNKNOWN_OLD, "node_errors": {}}, "1", None, "NoSuchNode does not exist"),
        (400, {"error": UNKNOWN_NEW, "node_errors": {}}, "1", "NoSuchNode", "'NoSuchNode' not found"),
        (400, {"error": NO_OUTPUTS, "node_errors": {}}, None, None, "Prompt has no outputs"),
        (400, {"error": "no"}, None, None, "no"),
        (400, {"error": {"type": "odd"}}, None, None, "odd"),
        (400, {}, None, None, "without a reason"),
        (400, {"error": FAILED, "node_errors": {"3": "odd"}}, "3", None, "failed validation"),
        (400, {"node_errors": {"3": {"errors": []}}}, "3", None, "node 3"),
        (500, "500 Internal Server Error\n\nServer got itself in trouble", None, None, "500"),
        (413, "Maximum request body size exceeded", None, None, "413"),
    ],
)
def test_a_refusal_keeps_comfyuis_message_and_node(
    status: int, body: Any, node_id: str | None, class_type: str | None, words: str
) -> None:
    """A refusal has ComfyUI's message and, if it names one, the node at fault."""
    refused = refusal(status, body)
    assert isinstance(refused, PromptRefused)
    assert (refused.node_id, refused.class_type) == (node_id, class_type)
    assert words in refused.message


def test_a_gateway_error_makes_the_engine_unavailable() -> None:
    """Status 502 to 504 comes from a proxy and means that the engine is unavailable."""
    assert isinstance(refusal(502, "<html>"), EngineUnavailable)


def test_a_long_list_of_choices_is_cut() -> None:
    """The message of a refusal that lists every model is truncated."""
    choices = {"message": "Value not in list", "details": "x" * 10**6}
    refused = refusal(400, {"node_errors": {"1": {"errors": [choices], "class_type": "A"}}})
    assert refused is not None
    assert len(refused.message) == LONGEST_MESSAGE
