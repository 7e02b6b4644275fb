"""Answers of a scripted server to the Python client."""

import hashlib
import json
from typing import Any

from tests.support.scripted_http import Answer

MADE = b"made" * 1000
TERMINAL = {"status": "completed", "job_id": "j", "outputs": []}


def document(value: Any, **headers: str) -> Answer:
    return Answer(200, json.dumps(value).encode(), headers)


def output_at(url: str, filename: str = "x.png") -> dict[str, Any]:
    return {
        "filename": filename,
        "url": f"{url}/{filename}?X-Amz-Signature=s",
        "sha256": hashlib.sha256(MADE).hexdigest(),
        "size_bytes": len(MADE),
    }
