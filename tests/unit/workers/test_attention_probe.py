"""Kernels compared with a reference on stand-in tensors, which are lists of numbers, with simulated time."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from workers.attention_probe import Case, Kernel, compare, measure

CASE = Case("small", heads=1, length=4, head_dim=2, dtype="float16")
REFERENCE_MS = 4.0


class ListDevice:
    """A device on which a kernel call advances `now` by the kernel's duration."""

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


def test_a_correct_kernel_matches_the_reference() -> None:
    """A correct kernel has a cosine of 1, and the times of all cases are summed."""
    facts = measured(lambda n: n)
    assert facts["finite"]
    assert facts["cosine"] == pytest.approx(1)
    assert (facts["sage_ms"], facts["sdpa_ms"]) == (2.0, 2 * REFERENCE_MS)


def test_a_wrong_kernel_has_a_low_cosine() -> None:
    """Numbers of another sign or order have a low cosine."""
    assert measured(lambda n: -n)["cosine"] == pytest.approx(-1)
    assert measured(lambda n: 9 - n)["cosine"] < 0.7


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_that_is_not_finite_is_not_compared(value: float) -> None:
    """One NaN or infinity makes the result not finite, and no cosine is computed."""
    facts = measured(lambda n: value if n == 3 else n)
    assert (facts["finite"], facts["cosine"]) == (False, None)


def test_a_kernel_that_raises_is_reported() -> None:
    """A kernel that raises is reported by the type and message of its error only."""

    def raising(_: float) -> float:
        raise RuntimeError("no kernel image is available")

    assert measured(raising) == {"sage_error": "RuntimeError: no kernel image is available"}


def test_the_time_is_the_median_after_the_first_runs() -> None:
    """The first runs, which compile, do not count towards the median time."""
    device = ListDevice()
    runs = 0

    def compiling(query: Any, key: Any, value: Any) -> Any:
        nonlocal runs
        runs += 1
        device.now += 5000.0 if runs <= 2 else 3.0
        return value

    assert compare(device, CASE, compiling, device.kernel(lambda n: n, REFERENCE_MS)).ms == pytest.approx(3.0)


def test_the_measurements_are_json() -> None:
    """The measurements can be printed as JSON."""
    assert json.loads(json.dumps(measured(lambda n: n)))
