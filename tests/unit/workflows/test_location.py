"""The texts of values in errors."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from workflows.location import LONGEST_VALUE, beginning, plain, short, words

MOST = 300
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=MOST),
    lambda members: st.lists(members) | st.dictionaries(st.text(max_size=MOST), members),
)


def clipped(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


@given(VALUES, st.integers(min_value=MOST, max_value=2 * MOST))
def test_the_beginning_of_a_value_is_that_of_its_repr(value: Any, length: int) -> None:
    """The beginning of any JSON value is that of its repr."""
    assert beginning(value, length) == repr(value)[:length]


@given(st.recursive(st.integers() | st.text(max_size=LONGEST_VALUE), st.lists))
def test_a_value_in_an_error_is_clipped(value: Any) -> None:
    """An error has the repr and the text of a value up to LONGEST_VALUE characters."""
    assert words(value) == clipped(repr(value))
    assert plain(value) == clipped(str(value))
    assert short(value) == (value if len(str(value)) <= LONGEST_VALUE else clipped(str(value)))


def test_a_long_text_is_cut_before_it_is_written() -> None:
    """A long text is repeated by its beginning, whose quotes are chosen without the rest."""
    assert words("x" * 1_000 + "'") == f"'{'x' * (LONGEST_VALUE - 1)}…"


def test_a_number_that_json_does_not_have_is_repeated_as_text() -> None:
    """An endless number, such as `1e999` becomes, is repeated as a text, since no answer could have it."""
    assert [short(float(text)) for text in ("1e999", "-inf", "nan", "1.5")] == ["inf", "-inf", "nan", 1.5]
