"""What the command line says when it cannot do as asked."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from app.cli.connection import NoConnection, Target, webhook_secret_of
from app.cli.exit_codes import REFUSED
from app.cli.root import ends_well
from app.client import ApiProblem

FAULTS = [
    {"pointer": "/a", "detail": "a is wrong", "hint": "mend a"},
    {"pointer": "/b", "detail": "b is wrong", "hint": "mend b"},
]


def said(problem: Mapping[str, object], capsys: pytest.CaptureFixture[str]) -> list[str]:
    @ends_well
    def command() -> int:
        raise ApiProblem(422, problem)

    assert command() == REFUSED
    return capsys.readouterr().err.splitlines()


def test_a_refusal_tells_each_fault_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """What helps stands below the fault that it is for."""
    problem = {"type": "/problems/x", "detail": "a is wrong (and 1 more)", "hint": "mend a", "errors": FAULTS}
    assert said(problem, capsys) == [
        "refused: a is wrong (and 1 more)",
        "  → mend a",
        "/b: b is wrong",
        "  → mend b",
    ]


def test_a_wrong_field_needs_no_hint_to_see_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """They stand there already."""
    problem = {"type": "/problems/validation-error", "detail": "/a: a is wrong", "hint": "see errors for each field"}
    assert said(problem, capsys) == ["refused: /a: a is wrong"]


def test_without_an_api_the_folder_is_named(tmp_path: Path) -> None:
    """It is most often another folder in which `up` runs."""
    with pytest.raises(NoConnection, match=f"nothing runs in {tmp_path} .*connection.json"):
        Target(data=tmp_path).resolve()
    with pytest.raises(NoConnection, match=f"nothing runs in {tmp_path} .*connection.json"):
        webhook_secret_of(tmp_path)
