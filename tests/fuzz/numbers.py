"""Numbers in unusual notations, for every number that a documented operation accepts.

schemathesis draws numbers that fit JSON Schema, and so rarely writes one in a query with 5,000 digits, with leading
zeros, or in another script. Each of these is sent to each parameter and field, one at a time.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import httpx

from tests.fuzz.world import World
from tests.support.api_server import BLUE, KEY
from tests.support.plain_http import NO_TLS

TEXTS = (
    *("007", "+5", "-5", "-0", " 5", "5 ", "1_0", "5.0", "5e0", "1e400", "0x5", "NaN", "", "null", "true"),
    *("٥", "５", "²", "9" * 20, "9" * 400, "9" * 4_301, "9" * 5_000),
    *("0" * 40 + "1", "0" * 19 + "100", "0" * 19 + "1" + "0" * 5_000),
)
"""Texts of which none is a plain whole number within the bounds of any parameter."""
LITERALS = (
    *("007", "+5", "1e400", "-1e400", "NaN", "Infinity", "9" * 20, "9" * 99, "9" * 101, "9" * 4_301, "1" + "0" * 400),
    *('"5"', '" 5"', '"٥"', '"' + "9" * 5_000 + '"', "true", "false", "1e308", "[5]", "{}", '"x"'),
)
"""The same kinds of numbers as literals in a JSON body."""
_MARK = "PUT-THE-NUMBER-HERE"
_BODIES: dict[str, dict[str, Any]] = {
    "/v1/jobs": {"workflow": BLUE},
    "/v1/batches": {"workflow": BLUE, "input_sets": [[{"node": "1", "field": "color", "value": 1}]]},
    "/v1/uploads": {"size_bytes": 3, "content_type": "image/png"},
    "/v1/workflows/{name}/jobs": {"inputs": {}},
    "/api/v2/jobs": {"workflow": BLUE},
    "/api/v2/assets/from-hash": {"hash": "blake3:" + "0" * 64, "file_path": "cat.png"},
}


@dataclass(frozen=True, slots=True)
class Question:
    """One request; `name` says where the number is."""

    name: str
    method: str
    path: str
    content: bytes | None = None


def questions(document: dict[str, Any], world: World) -> Iterator[Question]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield from _in_parameters(document, world, path, method, operation)
            if path in _BODIES and method == "post":
                yield from _in_the_body(document, world, path, operation)


def _in_parameters(
    document: dict[str, Any], world: World, path: str, method: str, operation: dict[str, Any]
) -> Iterator[Question]:
    for parameter in operation.get("parameters", ()):
        if not _is_a_number(document, parameter["schema"]):
            continue
        for text in TEXTS:
            quoted = str(httpx.QueryParams({"x": text}))[2:].replace("+", "%20")
            name = f"{method.upper()} {path} {parameter['name']}={text[:25]!r} ({len(text)})"
            if parameter["in"] == "query":
                yield Question(name, method, f"{_filled(path, world)}?{parameter['name']}={quoted}")
            elif parameter["in"] == "path" and text:
                yield Question(name, method, _filled(path, world, {parameter["name"]: quoted}))


def _in_the_body(document: dict[str, Any], world: World, path: str, operation: dict[str, Any]) -> Iterator[Question]:
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    for field in _number_fields(document, schema):
        body = json.dumps(deepcopy(_BODIES[path]) | {field: _MARK})
        for literal in LITERALS:
            content = body.replace(f'"{_MARK}"', literal).encode()
            yield Question(
                f"POST {path} {field}: {literal[:25]} ({len(literal)})", "post", _filled(path, world), content
            )


def _number_fields(document: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    properties = _resolved(document, schema).get("properties", {})
    return [name for name, one in properties.items() if _is_a_number(document, one)]


def _is_a_number(document: dict[str, Any], schema: dict[str, Any]) -> bool:
    schema = _resolved(document, schema)
    kinds = [schema, *(_resolved(document, one) for one in schema.get("anyOf", ()))]
    return any(kind.get("type") in ("integer", "number") for kind in kinds)


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: dict[str, Any] = document["components"]["schemas"][reference.rpartition("/")[2]]
    return found


def _filled(path: str, world: World, given: dict[str, str] | None = None) -> str:
    for name, known in (world.known | {key: (value,) for key, value in (given or {}).items()}).items():
        path = path.replace(f"{{{name}}}", (given or {}).get(name, known[0]))
    return path


def ask_numbers(world: World, document: dict[str, Any]) -> list[str]:
    """Return the requests whose number was accepted or answered by a 5xx."""
    wrong = []
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    with httpx.Client(base_url=world.url, headers=headers, timeout=60, verify=NO_TLS) as client:
        for question in questions(document, world):
            answer = client.request(question.method, question.path, content=question.content)
            if answer.status_code >= 500 or answer.status_code < 300:
                wrong.append(f"{answer.status_code} {question.name}")
    return wrong
