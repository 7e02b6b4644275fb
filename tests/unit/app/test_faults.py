"""Refusals of request bodies are in plain words."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from app.api.conversion import ConversionRequest
from app.api.inspection import InspectionRequest
from app.api.uploads import UploadRequest
from app.api.webhooks import ReplayRequest, WebhookTestRequest
from app.openapi import OPERATIONS
from app.problems import Problem
from app.submission.named import NamedJobRequest, request_model
from app.submission.preparation import parsed
from app.submission.request import BatchRequest, JobRequest
from workflows.library import shipped

GRAPH = {"1": {"class_type": "A", "inputs": {}}}
OPTIONS: dict[str, Any] = {
    "media": [{"name": "a.png", "data": "AAAA", "url": "https://a.example/b", "upload_id": "u"}],
    "priority": 1,
    "timeout_s": 5,
    "queue_timeout_s": 5,
    "retain_days": 1.5,
    "strict": True,
    "gpu": "L4",
    "metadata": {"order": "1"},
    "extra_data": {"api_key_comfy_org": "key"},
    "webhook_url": "https://a.example/hook",
    "webhook_secret": "whsec_x",
    "webhook_events": ["completed"],
}
INPUTS = [{"node": "1", "field": "x", "value": 1, "type": "raw"}]
JOB = {"workflow": GRAPH, "inputs": INPUTS, **OPTIONS}
NAMED = {name: value for name, value in OPTIONS.items() if name != "media"}
FILE = {"filename": "a.png", "data": "AAAA", "url": "https://a.example/b", "upload_id": "u"}
BODIES: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (JobRequest, JOB),
    (BatchRequest, {"workflow": GRAPH, "input_sets": [INPUTS], "jobs": [JOB], **OPTIONS}),
    (ConversionRequest, {"workflow": GRAPH, "gpu": "h100"}),
    (InspectionRequest, {"workflow": GRAPH, "gpu": "h100"}),
    (UploadRequest, {"size_bytes": 1, "content_type": "image/png", "filename": "a.png"}),
    (WebhookTestRequest, {"url": "https://a.example/hook"}),
    (ReplayRequest, {"event_ids": ["a"]}),
    *(
        (
            request_model(workflow),
            {
                **NAMED,
                "inputs": {
                    name: FILE if named.is_file else workflow.default(name)
                    for name, named in workflow.manifest.inputs.items()
                },
            },
        )
        for workflow in shipped().values()
    ),
]
WRONG: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    1e300,
    "",
    "x" * 5000,
    "ftp://[",
    "http://h:x/",
    [],
    [1],
    [None] * 2000,
    {},
    {"x": 1},
    {"": ""},
    {"y" * 500: "z" * 5000},
)
NOT_PLAIN = re.compile(
    r"Input should|should be|(?:string|int|bool|float|list|dict|model)_type|dictionary|NoneType|None\b|class\b|instance"
    r"|Value error|pydantic|validator"
    r"|\bint\b|\bstr\b|\bfloat\b|\bbool\b|\bdict\b|\bTrue\b|\bFalse\b|extra_forbidden|not permitted|literal|cast|parse"
)


def wrong_bodies(body: Any) -> Iterator[Any]:
    """Yield the body with each value replaced by each wrong one, each member left out, and an unknown one added."""
    for place in _places(body):
        for value in WRONG:
            yield _with(body, place, value)
        if place:
            yield _without(body, place)
        if isinstance(_at(body, place), dict):
            yield _with(body, (*place, "nonsense"), 1)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, item in inner:
        yield from _places(item, (*place, part))


def _at(body: Any, place: tuple[Any, ...]) -> Any:
    for part in place:
        body = body[part]
    return body


def _with(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    changed = copy.deepcopy(body)
    _at(changed, place[:-1])[place[-1]] = value
    return changed


def _without(body: Any, place: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(body)
    del _at(changed, place[:-1])[place[-1]]
    return changed


def refusal(model: type[BaseModel], body: Any) -> Problem | None:
    try:
        parsed(model, body)
    except Problem as problem:
        return problem
    return None


def test_every_model_of_a_body_is_tried() -> None:
    """The bodies above are those of all operations; named workflows have models of their own."""
    models = {operation.request for operation in OPERATIONS if operation.request is not None}
    tried = {NamedJobRequest if issubclass(model, NamedJobRequest) else model for model, _ in BODIES}
    assert models == tried


@pytest.mark.parametrize(("model", "body"), BODIES, ids=[model.__name__ for model, _ in BODIES])
def test_refusals_are_plain_and_point_into_the_body(model: type[BaseModel], body: dict[str, Any]) -> None:
    """A refusal says in plain words what is there and what is wanted, and points to a place of the body."""
    refusals = [(wrong, problem) for wrong in wrong_bodies(body) if (problem := refusal(model, wrong)) is not None]
    assert len(refusals) > 20
    for wrong, problem in refusals:
        words = [problem.detail, problem.hint, *(text for one in problem.errors or () for text in one.values())]
        for text in words:
            assert not NOT_PLAIN.search(text), text
            assert len(text) < 1500
        for one in problem.errors or ():
            parts = [part.replace("~1", "/").replace("~0", "~") for part in one["pointer"].split("/")[1:]]
            if one["fault"] != "missing":
                _find(wrong, parts)


def _find(body: Any, parts: list[str]) -> None:
    for part in parts:
        if isinstance(body, list):
            body = body[int(part)]
        else:
            body = next(item for name, item in body.items() if name[:256] == part)


@pytest.mark.parametrize(
    ("body", "pointer", "hint"),
    [
        ({"webhook": "https://a.example"}, "/webhook", "did you mean webhook_url?"),
        ({"callback_url": "https://a.example"}, "/callback_url", "did you mean webhook_url?"),
        ({"webhookUrl": "https://a.example"}, "/webhookUrl", "did you mean webhook_url?"),
        ({"metdata": {}}, "/metdata", "did you mean metadata?"),
        ({"timeout": 5}, "/timeout", "did you mean timeout_s?"),
        ({"media": [{"name": "a", "image": "AAAA"}]}, "/media/0/image", "did you mean url?"),
        ({"media": [{"name": "a", "uplod_id": "u"}]}, "/media/0/uplod_id", "did you mean upload_id?"),
        ({"inputs": [{"node": "1", "field": "x", "valeu": 1}]}, "/inputs/0/valeu", "did you mean value?"),
        ({"inputs": [{"node_id": "1", "field": "x", "value": 1}]}, "/inputs/0/node_id", "did you mean node?"),
        ({"extra_data": {"api_key": "x"}}, "/extra_data/api_key", "the fields here are api_key_comfy_org"),
    ],
)
def test_a_near_miss_gets_a_suggestion(body: dict[str, Any], pointer: str, hint: str) -> None:
    """A field that another API has, or that is misspelt, is refused with the name that it has here, nested ones too."""
    for model, whole, root in ((JobRequest, body, ""), (BatchRequest, {"jobs": [body | {"workflow": {}}]}, "/jobs/0")):
        problem = refusal(model, {"workflow": {}} | whole)
        assert problem is not None
        hints = {one["pointer"]: one.get("hint") for one in problem.errors or ()}
        assert hints[root + pointer] == hint


def test_a_named_workflows_missing_input_is_named_with_its_kind() -> None:
    """A missing input of a named workflow is named, with what it takes, even if `inputs` is missing altogether."""
    model = request_model(shipped()["still"])
    bodies: tuple[dict[str, Any], ...] = ({}, {"inputs": {}})
    for body in bodies:
        problem = refusal(model, body)
        assert problem is not None
        assert problem.errors == [
            {
                "pointer": "/inputs/image",
                "fault": "missing",
                "detail": 'image is missing; it is a file: its URL, or {"url": …}, {"upload_id": …}, {"asset_id": …} '
                'or {"data": …}',
                "expected": 'a file: its URL, or {"url": …}, {"upload_id": …}, {"asset_id": …} or {"data": …}',
            }
        ]


def test_a_named_workflows_input_beside_inputs_is_sent_into_them() -> None:
    """An input that stands next to `inputs` is refused with where it belongs."""
    problem = refusal(request_model(shipped()["still"]), {"image": "https://a.example/b.png"})
    assert problem is not None
    hints = {one["pointer"]: one.get("hint") for one in problem.errors or ()}
    assert hints["/image"] == 'put it into `inputs`: {"inputs": {"image": …}}'
