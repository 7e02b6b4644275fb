"""Numbers in requests: which notations are accepted and how bounds are checked."""

import pytest
from pydantic import BaseModel, Field, ValidationError

from app.numbers import Number, Whole, whole

DISGUISED = [
    "007",
    "+5",
    "-5",
    " 5",
    "5 ",
    "5\n",
    "1_0",
    "٥",
    "５",
    "5.0",
    "5e0",
    "0x5",
    "",
    "0" * 30 + "5",
    "9" * 5000,
    "²",
]


class Fields(BaseModel):
    count: Whole | None = Field(None, ge=1, le=60)
    days: Number | None = Field(None, gt=0, le=60)


@pytest.mark.parametrize("text", DISGUISED)
def test_an_unusual_notation_is_refused(text: str) -> None:
    """Text that is not a plain decimal number is refused before its bounds are checked."""
    with pytest.raises(ValueError, match="not a whole number"):
        whole(text, 0, 10**20)


@pytest.mark.parametrize("text", ["0", "1", "60"])
def test_a_number_within_its_bounds_is_accepted(text: str) -> None:
    assert whole(text, 0, 60) == int(text)


def test_bounds_are_inclusive() -> None:
    for text in ("0", "61"):
        with pytest.raises(ValueError, match="from 1 to 60"):
            whole(text, 1, 60)


@pytest.mark.parametrize(
    "value", ["5", True, False, 5.5, 10**400, -1, 0, 61, [5], {}, 1e308, float("inf"), float("nan")]
)
def test_a_whole_number_field_accepts_nothing_else(value: object) -> None:
    with pytest.raises(ValidationError):
        Fields.model_validate({"count": value})


@pytest.mark.parametrize("value", ["5", True, 10**400, -1, 0, 61, [5], float("inf"), float("nan")])
def test_a_number_field_accepts_nothing_else(value: object) -> None:
    with pytest.raises(ValidationError):
        Fields.model_validate({"days": value})


def test_a_zero_fraction_is_a_whole_number() -> None:
    """A whole number may be written with a zero fraction, as some languages serialize it."""
    fields = Fields.model_validate({"count": 60.0, "days": 1})
    assert (fields.count, fields.days) == (60, 1.0)
    assert Fields.model_validate({"count": None, "days": None}) == Fields()
