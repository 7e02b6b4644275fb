"""GET /v1/limits shows every limit, and each limit is enforced."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from app.api.limits import Limits
from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import BLUE, KEY, PNG, Api, running_api

pytestmark = pytest.mark.anyio

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ExceedingRequest:
    """A request that exceeds a limit of the given value, and the type of its refusal. `config` sets limits."""

    slug: str
    request: Callable[[httpx.Client, Any], httpx.Request]
    config: Json
    before: int = 0
    """The number of accepted requests before the limit is reached."""


def job(slug: str, fields_of: Callable[[Any], Json], *, before: int = 0, **config: Any) -> ExceedingRequest:
    """A submission with these fields."""
    return ExceedingRequest(
        slug, _post("/v1/jobs", lambda value: {"workflow": BLUE} | fields_of(value)), config, before
    )


def get(slug: str, path: Callable[[Any], str]) -> ExceedingRequest:
    return ExceedingRequest(slug, lambda client, value: client.build_request("GET", path(value)), {})


def _post(path: str, document: Callable[[Any], Any]) -> Callable[[httpx.Client, Any], httpx.Request]:
    return lambda client, value: client.build_request("POST", path, json=document(value))


def upload(slug: str, size: Callable[[Any], int], **config: Any) -> ExceedingRequest:
    return ExceedingRequest(slug, _post("/v1/uploads", lambda value: {"size_bytes": size(value)}), config)


def nested(depth: int) -> Any:
    document: Any = 1
    for _ in range(depth):
        document = [document]
    return document


DATA = base64.b64encode(PNG).decode()
HOOK = "https://h.example/"
CASES: dict[str, ExceedingRequest] = {
    "max_requests_per_s": ExceedingRequest(
        "too-many-requests", lambda client, _: client.build_request("GET", "/v1/jobs"), {"max_requests_per_s": 1}, 1
    ),
    "max_active_jobs": job("too-many-active-jobs", lambda _: {}, before=1, max_active_jobs=1),
    "max_queued_jobs": job("too-many-queued-jobs", lambda _: {}, before=1, max_queued_jobs=1),
    "max_upload_bytes_a_day": upload("upload-too-large", lambda value: value + 1, max_upload_bytes_a_day=9),
    "max_request_bytes": job("request-too-large", lambda value: {"metadata": {"a": "x" * value}}, max_request_bytes=9),
    "max_structure_bytes": job(
        "request-too-large", lambda value: {"metadata": {"a": ["x" * 60_000] * (value // 60_000 + 1)}}
    ),
    "max_values": job("request-too-large", lambda value: {"metadata": {"a": [0] * value}}),
    "max_depth": job("malformed-json", lambda value: {"workflow": nested(value)}),
    "max_text_bytes": job("text-too-long", lambda _: {"workflow": _with_text(70_000)}, max_text_bytes=65_536),
    "max_total_text_bytes": job(
        "text-too-long", lambda _: {"workflow": _with_text(70_000), "inputs": [_text()]}, max_total_text_bytes=130_000
    ),
    "max_nodes": job("too-many-nodes", lambda _: {}, max_nodes=1),
    "max_node_inputs": job("bad-node", lambda value: {"workflow": BLUE | {"1": _node(value + 1)}}),
    "max_node_name_length": job("bad-node", lambda value: {"workflow": BLUE | {"3" * (value + 1): BLUE["1"]}}),
    "max_inputs": job("validation-error", lambda _: {"inputs": [_input()] * 2}, max_inputs=1),
    "max_media": job("too-many-media", lambda value: {"media": [_medium(n) for n in range(value + 1)]}, max_media=1),
    "max_medium_bytes": job("medium-too-large", lambda _: {"media": [_medium(0)]}, max_medium_bytes=len(PNG) - 1),
    "max_urls": job("too-many-urls", lambda value: {"media": [_behind_url(n) for n in range(value + 1)]}, max_urls=2),
    "max_batch_urls": ExceedingRequest(
        "too-many-urls",
        _post("/v1/batches", lambda value: {"jobs": [{"workflow": BLUE, "media": [_behind_url(0)]}] * (value + 1)}),
        {"max_batch_urls": 2},
    ),
    "max_upload_bytes": upload("upload-too-large", lambda value: value + 1),
    "max_asset_bytes": ExceedingRequest(
        "request-too-large",
        lambda client, value: client.build_request(
            "POST",
            "/api/v2/assets",
            data={"content_type": "image/png", "file_path": "a.png"},
            files={"file": b"x" * (value + 1)},
        ),
        {"max_asset_bytes": 9},
    ),
    "max_batch_jobs": ExceedingRequest(
        "too-many-jobs",
        _post("/v1/batches", lambda value: {"workflow": BLUE, "input_sets": [[]] * (value + 1)}),
        {"max_batch_jobs": 3},
    ),
    "max_metadata_pairs": job(
        "validation-error", lambda value: {"metadata": {str(n): "" for n in range(value + 1)}}, max_metadata_pairs=2
    ),
    "max_metadata_name_length": job("validation-error", lambda value: {"metadata": {"x" * (value + 1): ""}}),
    "max_metadata_text_length": job("validation-error", lambda value: {"metadata": {"x": "x" * (value + 1)}}),
    "max_webhook_url_length": job("validation-error", lambda value: {"webhook_url": HOOK.ljust(value + 1, "x")}),
    "max_idempotency_key_length": ExceedingRequest(
        "bad-idempotency-key",
        lambda client, value: client.build_request(
            "POST", "/v1/jobs", json={"workflow": BLUE}, headers={"idempotency-key": "x" * (value + 1)}
        ),
        {},
    ),
    "min_priority": job("validation-error", lambda value: {"priority": value - 1}),
    "max_priority": job("validation-error", lambda value: {"priority": value + 1}),
    "max_timeout_s": job("validation-error", lambda value: {"timeout_s": value + 1}),
    "max_queue_timeout_s": job("validation-error", lambda value: {"queue_timeout_s": value + 1}),
    "max_deadline_s": job("validation-error", lambda value: {"deadline_s": value + 1}),
    "max_retain_days": job("validation-error", lambda value: {"retain_days": value + 0.1}),
    "max_wait_s": get("invalid-parameter", lambda value: f"/v1/jobs/x?wait={value + 1}"),
    "max_page": get("invalid-parameter", lambda value: f"/v1/jobs?limit={value + 1}"),
}
TESTED_ELSEWHERE = {
    "max_large_requests",
    "max_unfinished_requests",
    "max_requests_in_flight",
    "max_long_polls",
    "max_streams",
    "max_streams_of_key",
    "max_stream_s",
    "max_webhook_tests",
    "max_unread_bytes",
    "max_receiving_requests",
    "max_batch_nodes",
    "max_batch_values",
    "max_batch_graph_bytes",
    "max_batch_conversion_steps",
    "max_webhook_targets",
    "max_body_s",
    "max_fetch_s",
    "max_pixels",
    "max_animation_pixels",
    "max_frames",
    "max_samples",
    "max_video_pixels",
    "max_media_s",
    "max_scanned_jobs",
    "max_conversion_steps",
    "max_conversion_bytes",
}
"""In test_quotas.py, test_requests_in_flight.py, test_long_polls.py, test_job_events.py, test_webhook_api.py,
test_fetching.py, test_unread_answers.py, test_hostile_media.py, test_job_filters.py, test_large_bodies.py,
test_editor_files.py, and by test_a_body_that_does_not_arrive_in_time_is_refused."""


def _with_text(length: int) -> Json:
    return BLUE | {"2": {**BLUE["2"], "inputs": {**BLUE["2"]["inputs"], "filename_prefix": "x" * length}}}


def _node(inputs: int) -> Json:
    return {"class_type": "EmptyImage", "inputs": {str(number): 1 for number in range(inputs)}}


def _input() -> Json:
    return {"node": "1", "field": "width", "value": 8}


def _text() -> Json:
    return {"node": "2", "field": "filename_prefix", "value": "x" * 70_000}


def _medium(number: int) -> Json:
    return {"name": f"{number}.png", "data": DATA}


def _behind_url(number: int) -> Json:
    return {"name": f"{number}.png", "url": "https://x.example/picture"}


def test_every_limit_is_shown_and_exceeded() -> None:
    """Each limit of GET /v1/limits is exceeded by a test in this file or in one of the named files."""
    assert set(CASES) | TESTED_ELSEWHERE == set(Limits.model_fields)


@pytest.mark.parametrize("name", CASES)
async def test_a_request_above_a_limit_is_refused(clock: ManualClock, name: str) -> None:
    """Exceeding the value that GET /v1/limits shows is refused, and nothing is stored."""
    case = CASES[name]
    config = ApiConfig(api_key=KEY, **case.config)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        value = (await api.client.get("/v1/limits")).json()[name]
        if name in case.config:
            assert value == case.config[name]
        for _ in range(case.before):
            assert (await _sent(api, case, value)).status_code < 300
        before = await api.keys()
        refused = await _sent(api, case, value)
        refusal = refused.json()
        assert (refusal["error"]["details"]["problem"] if "error" in refusal else refusal["type"]).endswith(case.slug)
        assert 400 <= refused.status_code < 500
        assert await api.keys() == before


async def test_a_limit_that_is_not_set_is_null(clock: ManualClock) -> None:
    """A limit without a value is null, and a daily quota also limits a single upload and batch."""
    async with running_api(MemoryObjectStore(clock), clock) as api:
        shown = (await api.client.get("/v1/limits")).json()
        unset = {name for name, value in shown.items() if value is None}
        assert unset == {
            "max_requests_per_s",
            "max_active_jobs",
            "max_queued_jobs",
            "max_upload_bytes_a_day",
            "max_webhook_targets",
        }
    config = ApiConfig(api_key=KEY, max_upload_bytes_a_day=9, max_active_jobs=4)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        shown = (await api.client.get("/v1/limits")).json()
        assert (shown["max_upload_bytes"], shown["max_asset_bytes"], shown["max_batch_jobs"]) == (9, 9, 4)


async def _sent(api: Api, case: ExceedingRequest, value: Any) -> httpx.Response:
    return await api.client.send(case.request(api.client, value))  # type: ignore[arg-type]  # both clients build requests alike
