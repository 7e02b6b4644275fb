"""Every target of `make fuzz-guided` accepts the inputs that hypothesis generates."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS
from tests.support.api_server import PNG

FAST = sorted(set(TARGETS) - {"medium"})
"""All targets but `medium`, which starts a process per input."""
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
def test_a_target_handles_any_input(name: str, data: bytes) -> None:
    """A target returns, or raises a documented error, for any input."""
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_handles_the_seeds_of_all_targets(name: str) -> None:
    """A target handles the seeds of every other target."""
    for seed in SEEDS:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", FAST)
def test_a_target_handles_truncated_seeds(name: str) -> None:
    """A target handles truncated seeds."""
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
def test_a_corrupted_picture_is_handled(data: bytes) -> None:
    """A picture with changed bytes is accepted or refused without an error."""
    TARGETS["medium"](data)
