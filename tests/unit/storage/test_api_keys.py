"""The text of API keys: a new key is parsed, and any other text is not."""

from hypothesis import given
from hypothesis import strategies as st

from storage.access.api_keys import PREFIX, PresentedKey, is_kid, new_key, new_kid, parse_key, sha256_of

KEY = new_key("abcdefg2")


def test_a_new_key_is_parsed() -> None:
    """A new key is parsed into its kid and hash, and the parsed key does not show its secret."""
    presented = parse_key(KEY)
    assert presented == PresentedKey("abcdefg2", sha256_of(KEY))
    assert KEY.split("_", 3)[3] not in repr(presented)  # the secret may start with `_`


def test_keys_are_unique() -> None:
    """New keys for one kid differ in their secrets, and new kids practically never repeat."""
    assert len({new_key("abcdefg2") for _ in range(100)}) == 100
    kids = {new_kid() for _ in range(100)}
    assert len(kids) == 100
    assert all(is_kid(kid) for kid in kids)


@given(st.integers(0, len(KEY) - 1), st.characters())
def test_a_mistyped_key_is_rejected(position: int, character: str) -> None:
    """A key with one wrong character is rejected without a read of the bucket."""
    wrong = KEY[:position] + character + KEY[position + 1 :]
    assert (parse_key(wrong) is None) == (wrong != KEY)


@given(st.one_of(st.text(), st.text().map(lambda text: PREFIX + text), st.from_regex(r"ck_live_[a-z2-7]{8}_.*")))
def test_parsing_any_text_raises_nothing(text: str) -> None:
    """Any text that is not a key, and a key with extra characters, is parsed as None."""
    assert parse_key(text) is None
    assert parse_key(KEY + text[:1]) is None or not text
    assert parse_key(f"{KEY}\n") is None


@given(st.text())
def test_a_kid_is_a_safe_key_segment(text: str) -> None:
    """A valid kid has eight ASCII letters and digits, so it cannot leave its folder."""
    assert not is_kid(text) or (len(text) == 8 and text.isascii() and text.isalnum())
