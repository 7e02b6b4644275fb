"""Compares answers with what the official clients of Comfy API v2 accept (`shapes.json`)."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator

_FILE = Path(__file__).with_name("shapes.json")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,200}")


@cache
def _validator(shape: str) -> Draft202012Validator:
    schema = json.loads(_FILE.read_text())
    return Draft202012Validator(
        {"$defs": schema["$defs"], "$ref": f"#/$defs/{shape}"}, format_checker=Draft202012Validator.FORMAT_CHECKER
    )


def shaped(answer: httpx.Response, status: int, shape: str) -> dict[str, Any]:
    """Return the answer's document after comparing its status, headers and shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert _REQUEST_ID.fullmatch(answer.headers["x-comfy-request-id"])
    document: dict[str, Any] = answer.json()
    check_shape(document, shape)
    return document


def check_shape(document: Any, shape: str) -> None:
    found = [f"{error.json_path}: {error.message}" for error in _validator(shape).iter_errors(document)]
    assert not found, found


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the error of a refusal after comparing its status, code and shape."""
    error: dict[str, Any] = shaped(answer, status, "error")["error"]
    assert error["code"] == code, error
    return error
