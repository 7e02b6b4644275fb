"""Bodies that are not JSON in UTF-8 although some parsers accept them, sent to every operation with a body."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from tests.fuzz.world import World
from tests.support.api_server import BLUE, KEY
from tests.support.plain_http import NO_TLS

ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
SURROGATES = (
    b"\xed\xa0\x80",
    b"\xed\xb0\x80",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\\ud800",
    b"\\udc00x",
    b"\xff",
    b"\xc0\x80",
)


def _nested(depth: int) -> str:
    """Return a valid graph except for a value nested so deeply that a reader may recurse."""
    value = "[" * depth + "]" * depth
    return json.dumps({"workflow": BLUE}).replace('"inputs": {', f'"inputs": {{"deep": {{"__value__": {value}}}, ', 1)


def _documents() -> Iterator[tuple[str, bytes]]:
    good = json.dumps({"workflow": BLUE})
    for encoding in ENCODINGS:
        yield f"good in {encoding}", good.encode(encoding)
        for depth in (63, 200, 400, 5_000):
            yield f"depth {depth} in {encoding}", _nested(depth).encode(encoding)
        yield f"values in {encoding}", ('{"workflow":[' + "0," * 300_000 + "0]}").encode(encoding)
    for depth in (65, 400, 5_000, 200_000):
        yield f"depth {depth}", _nested(depth).encode()
    for text in SURROGATES:
        for where in (b'{"workflow":{"1":{"class_type":"%b","inputs":{}}}}', b'{"%b":1}', b'{"metadata":{"k":"%b"}}'):
            yield f"{text!r} in {where[:12]!r}", where % text
            yield f"{text!r} in a long string", where % (b"x" * 70_000 + text)
    for number in (b"9" * 4_300, b"9" * 4_301, b"9" * 100_000, b"1e999", b"-1e999", b"1" + b"0" * 400):
        yield f"a number of {len(number)}", b'{"workflow":{"1":{"class_type":"A","inputs":{"x":%b}}}}' % number
    yield from (("empty strings", b'["",""' + b'""' * 20_000), ("quotes", b'"' * 20_001), ("NaN", b'{"a":NaN}'))


def ask_bodies(world: World, document: dict[str, Any]) -> list[str]:
    """Return the requests whose body was accepted or answered by a 5xx."""
    wrong = []
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    with httpx.Client(base_url=world.url, headers=headers, timeout=60, verify=NO_TLS) as client:
        for path, operations in document["paths"].items():
            if "requestBody" not in operations.get("post", {}):
                continue
            for name, known in world.known.items():
                path = path.replace(f"{{{name}}}", known[0])  # noqa: PLW2901  filled in, name by name
            for name, raw in _documents():
                answer = client.post(path, content=raw)
                if answer.status_code >= 500 or answer.status_code < 300:
                    wrong.append(f"{answer.status_code} POST {path} {name}")
    return wrong
