"""The text of API keys: what is made is read, and nothing else is."""

from hypothesis import given
from hypothesis import strategies as st

from storage.access.api_keys import PREFIX, PresentedKey, is_kid, new_key, new_kid, parse_key, sha256_of

KEY = new_key("abcdefg2")


def test_a_new_key_is_read_back() -> None:
    """By its kid and its hash, and its repr gives nothing away."""
    presented = parse_key(KEY)
    assert presented == PresentedKey("abcdefg2", sha256_of(KEY))
    assert KEY.split("_", 3)[3] not in repr(presented)  # the secret may begin with `_`


def test_no_two_keys_are_alike() -> None:
    """Neither their secrets, nor, but by a rare chance, their kids."""
    assert len({new_key("abcdefg2") for _ in range(100)}) == 100
    kids = {new_kid() for _ in range(100)}
    assert len(kids) == 100
    assert all(is_kid(kid) for kid in kids)


@given(st.integers(0, len(KEY) - 1), st.characters())
def test_a_mistyped_key_is_none(position: int, character: str) -> None:
    """One wrong character anywhere, and it is refused without a look at the bucket."""
    wrong = KEY[:position] + character + KEY[position + 1 :]
    assert (parse_key(wrong) is None) == (wrong != KEY)


@given(st.one_of(st.text(), st.text().map(lambda text: PREFIX + text), st.from_regex(r"ck_live_[a-z2-7]{8}_.*")))
def test_whatever_is_shown_nothing_is_raised(text: str) -> None:
    """A text that is no key is None; so is a key with more around it."""
    assert parse_key(text) is None
    assert parse_key(KEY + text[:1]) is None or not text
    assert parse_key(f"{KEY}\n") is None


@given(st.text())
def test_a_kid_cannot_lead_out_of_its_folder(text: str) -> None:
    """It has eight letters and digits, no slash and no dot."""
    assert not is_kid(text) or (len(text) == 8 and text.isascii() and text.isalnum())
