"""Every target of `make fuzz-guided` takes what hypothesis thinks of."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS
from tests.support.api_server import PNG

FAST = sorted(set(TARGETS) - {"medium"})
"""`medium` starts a process for each."""
names = st.text(max_size=8) | st.sampled_from(["type", "data", "images", "filename"])
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["type", "data", "images", "filename"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)
anything = st.binary(max_size=300) | documents.map(lambda document: json.dumps(document).encode())


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=60)
@given(data=anything)
def test_a_target_takes_anything(name: str, data: bytes) -> None:
    """It returns, or it refuses as it says."""
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_what_others_know(name: str) -> None:
    for seed in SEEDS:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", FAST)
def test_a_target_takes_beginnings_of_what_others_know(name: str) -> None:
    for seed in SEEDS:
        for length in (len(seed) - 1, len(seed) // 2, 0):
            TARGETS[name](seed[:length])


def mutated(draw: Any) -> bytes:
    body = bytearray(PNG)
    for _ in range(draw(st.integers(1, 6))):
        body[draw(st.integers(8, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body)


@settings(max_examples=60)
@given(data=st.composite(mutated)())
def test_a_picture_with_wrong_bytes(data: bytes) -> None:
    """It is refused, or passes; it breaks nothing."""
    TARGETS["medium"](data)
