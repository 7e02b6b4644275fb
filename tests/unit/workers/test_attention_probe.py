"""Kernels of every kind, compared with a reference on stand-in tensors: lists of numbers, and a clock of our own."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from workers.attention_probe import Case, Kernel, compare, measure

CASE = Case("small", heads=1, length=4, head_dim=2, dtype="float16")
REFERENCE_MS = 4.0


class ListDevice:
    """Each call of a kernel takes as long as the kernel says by advancing `now`."""

    def __init__(self) -> None:
        self.now = 0.0

    def inputs(self, case: Case) -> tuple[Any, Any, Any]:
        size = case.length * case.head_dim
        return [1.0] * size, [0.5] * size, [float(number) for number in range(1, size + 1)]

    def cosine(self, one: list[float], other: list[float]) -> float:
        product = sum(a * b for a, b in zip(one, other, strict=True))
        return product / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))

    def is_finite(self, tensor: list[float]) -> bool:
        return all(math.isfinite(number) for number in tensor)

    def milliseconds(self, work: Callable[[], object]) -> float:
        begin = self.now
        work()
        return self.now - begin

    def kernel(self, change: Callable[[float], float], ms: float) -> Kernel:
        def run(_query: Any, _key: Any, value: list[float]) -> list[float]:
            self.now += ms
            return [change(number) for number in value]

        return run


def measured(change: Callable[[float], float], ms: float = 1.0) -> dict[str, Any]:
    device = ListDevice()
    return measure(device, device.kernel(change, ms), device.kernel(lambda n: n, REFERENCE_MS), [CASE, CASE])


def test_a_right_kernel_is_like_the_reference() -> None:
    """Its cosine is 1, and the times of all cases are added."""
    facts = measured(lambda n: n)
    assert facts["finite"]
    assert facts["cosine"] == pytest.approx(1)
    assert (facts["sage_ms"], facts["sdpa_ms"]) == (2.0, 2 * REFERENCE_MS)


def test_a_wrong_kernel_is_seen() -> None:
    """Numbers of another sign or order are not similar."""
    assert measured(lambda n: -n)["cosine"] == pytest.approx(-1)
    assert measured(lambda n: 9 - n)["cosine"] < 0.7


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_not_compared(value: float) -> None:
    """One NaN or infinity is enough."""
    facts = measured(lambda n: value if n == 3 else n)
    assert (facts["finite"], facts["cosine"]) == (False, None)


def test_a_kernel_that_raises_is_told_of() -> None:
    """By the error's kind and words, and nothing else of it is believed."""

    def raising(_: float) -> float:
        raise RuntimeError("no kernel image is available")

    assert measured(raising) == {"sage_error": "RuntimeError: no kernel image is available"}


def test_the_time_is_the_median_after_the_first_runs() -> None:
    """The run that compiles does not count."""
    device = ListDevice()
    runs = 0

    def compiling(query: Any, key: Any, value: Any) -> Any:
        nonlocal runs
        runs += 1
        device.now += 5000.0 if runs <= 2 else 3.0
        return value

    assert compare(device, CASE, compiling, device.kernel(lambda n: n, REFERENCE_MS)).ms == pytest.approx(3.0)


def test_the_facts_are_json() -> None:
    """What is measured can be printed as it is."""
    assert json.loads(json.dumps(measured(lambda n: n)))
