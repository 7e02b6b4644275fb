"""The API documents agree with the code."""

import json
import re
from pathlib import Path

from app.openapi import OPERATIONS, document
from app.problems import PROBLEM_TYPES

DOCS = Path(__file__).parents[3] / "docs"


def test_the_committed_document_is_current() -> None:
    """docs/reference/openapi.json equals the document that the code generates; `make openapi` updates it."""
    assert json.loads((DOCS / "reference/openapi.json").read_text()) == document()


def test_every_schema_reference_resolves() -> None:
    """Every schema reference in the document names a schema that exists."""
    text = json.dumps(document())
    named = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert named <= set(document()["components"]["schemas"])


def test_docs_name_every_problem_type_and_no_other() -> None:
    """docs/reference/problems.md lists the status, title and hint of each problem type in the order of the code."""
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \| (\d+) \| (.+) \| (.+) \|$", (DOCS / "reference/problems.md").read_text(), re.MULTILINE
    )
    assert rows == [(kind.slug, str(kind.status), kind.title, kind.hint) for kind in PROBLEM_TYPES.values()]


def test_docs_show_every_operation() -> None:
    """docs/reference/http-api.md names the method and path of every operation."""
    text = (DOCS / "reference/http-api.md").read_text()
    for operation in OPERATIONS:
        assert f"`{operation.method.upper()} {operation.path}`" in text, operation.id
