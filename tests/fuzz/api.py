"""schemathesis over the published API document: every operation, with and without a key.

An answer fails with a status of 500 or more, a status or content type that the document lacks, or a body that violates
its schema; and, without a key, with any status but 401. The refusals of Comfy API v2 are not in its document: of those
the code is checked.
"""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.body import SPOOL_THRESHOLD
from app.comfy_v2.errors import CODES
from tests.fuzz.world import DOCUMENTS, World
from tests.support.api_server import BLUE, KEY

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
COMFY_CHECKS = [not_a_server_error, response_schema_conformance]
TIMEOUT_S = 30
GOOD = f"Bearer {KEY}"
BAD = "Bearer ck_test_nobody"
Statuses = Counter[tuple[str, int]]
"""The number of answers by operation and status."""


def ask_everything(world: World, name: str, *, cases: int, random_seed: int) -> Statuses:
    """Send `cases` requests, spread over the operations of a document. Raise for the first invalid answer, with a
    minimal request.
    """
    schema = schemathesis.openapi.from_dict(deepcopy(DOCUMENTS[name]))
    checks = CHECKS if name == "v1" else COMFY_CHECKS
    # Streams are tested by themselves: the document describes each kind of their events, and not their frames.
    answered = schema.exclude(path_regex=r"/events$")
    operations: list[Any] = [found.ok() for found in answered.get_all_operations() if isinstance(found, Ok)]
    share = settings(
        max_examples=max(1, cases // len(operations)),
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    statuses: Statuses = Counter()
    for operation in operations:
        ask = _question(operation, world, statuses, checks)
        seed(random_seed)(share(given(_cases(operation, world))(ask)))()
    return statuses


def _cases(operation: Any, world: World) -> st.SearchStrategy[tuple[Any, str | None]]:
    """Return a strategy for cases that fit the document or do not, some with existing ids, each with an
    Authorization header."""

    @st.composite
    def cases(draw: st.DrawFn) -> tuple[Any, str | None]:
        case = draw(operation.as_strategy(draw(st.sampled_from(GenerationMode))))
        case.body = deepcopy(case.body)  # a drawn value may be drawn again, so it must not be changed
        for name in case.path_parameters or {}:
            if draw(st.booleans()):
                case.path_parameters[name] = draw(st.sampled_from(world.known[name]))
        if isinstance(case.body, dict) and draw(st.booleans()):
            _make_acceptable(draw, case.body)
        if isinstance(case.body, dict) and case.body and draw(st.integers(0, 9)) == 0:
            case.body = _with_a_long_string(draw, case.body)
        return case, draw(st.sampled_from((GOOD, GOOD, GOOD, GOOD, GOOD, GOOD, GOOD, GOOD, BAD, None)))

    return cases()


def _make_acceptable(draw: st.DrawFn, body: dict[str, Any]) -> None:
    """Remove some fields, and replace the workflow by one that runs."""
    for name in list(body):
        if name != "workflow" and draw(st.booleans()):
            del body[name]
    if "workflow" in body:
        body["workflow"] = BLUE


def _with_a_long_string(draw: st.DrawFn, body: dict[str, Any]) -> dict[str, Any]:
    """Add a value or key that is long enough to go to a file."""
    text = draw(st.sampled_from(("x", "\0", "é", '\\"'))) * (SPOOL_THRESHOLD + 1)
    field = draw(st.sampled_from(sorted(body)))
    return body | draw(st.sampled_from(({field: text}, {field: {text: text}}, {field: [text]}, {text: 1})))


def _question(
    operation: Any, world: World, statuses: Statuses, checks: list[Any]
) -> Callable[[tuple[Any, str | None]], None]:
    is_open = operation.definition.raw.get("security") == []

    def ask(asked: tuple[Any, str | None]) -> None:
        case, authorization = asked
        headers = {} if authorization is None else {"authorization": authorization}
        response = case.call(base_url=world.url, headers=headers, timeout=TIMEOUT_S, allow_redirects=False)
        statuses[operation.label, response.status_code] += 1
        case.validate_response(response, checks=checks)
        assert authorization == GOOD or is_open or response.status_code in (401, 404, 405), response.status_code
        if checks is COMFY_CHECKS and response.status_code >= 400 and response.content:
            assert response.json()["error"]["code"] in CODES, response.text

    return ask
