"""Measures the attention kernels of the engine's Python: `python attention_probe.py`.

It uses only the standard library, and torch and sageattention if they are installed. Each line of standard output that
is a JSON object reports facts; a later one adds to the earlier ones, so that a kernel that crashes the process leaves
the facts known before. `workers.attention` starts this and decides.

A kernel takes query, key and value of shape (batch, heads, length, head dimension), and returns the same shape.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

Kernel = Callable[[Any, Any, Any], Any]

OLDEST = (8, 0)
"""Ampere, the oldest architecture with SageAttention kernels (its README, "Base environment")."""

REPETITIONS = 9
WARM_UPS = 2


@dataclass(frozen=True)
class Case:
    """The dimensions of a self-attention. `dtype` is torch's name."""

    name: str
    heads: int
    length: int
    head_dim: int
    dtype: str
    batch: int = 1


CASES = (
    Case("64 wide", heads=10, length=4096, head_dim=64, dtype="float16"),
    Case("128 wide", heads=24, length=4096, head_dim=128, dtype="bfloat16"),
)
"""Small cases with the head dimensions and types of SDXL and Wan, since kernels differ by both."""


class Device(Protocol):
    """The device on which tensors are created, compared and timed."""

    def inputs(self, case: Case) -> tuple[Any, Any, Any]: ...

    def cosine(self, one: Any, other: Any) -> float:
        """Return the cosine similarity of all values, computed in 32 bits."""
        ...

    def is_finite(self, tensor: Any) -> bool: ...

    def milliseconds(self, work: Callable[[], object]) -> float:
        """Return the time of one run, until the device has finished."""
        ...


@dataclass(frozen=True)
class Comparison:
    """`cosine` is None if the kernel returned NaN or infinity."""

    finite: bool
    cosine: float | None
    ms: float
    reference_ms: float


def compare(device: Device, case: Case, kernel: Kernel, reference: Kernel) -> Comparison:
    """Compare two kernels by the medians of several runs, after warm-up runs. Errors of a kernel are passed on."""
    query, key, value = device.inputs(case)
    result, expected = kernel(query, key, value), reference(query, key, value)
    finite = device.is_finite(result)
    return Comparison(
        finite=finite,
        cosine=device.cosine(result, expected) if finite else None,
        ms=_median(device, lambda: kernel(query, key, value)),
        reference_ms=_median(device, lambda: reference(query, key, value)),
    )


def measure(device: Device, kernel: Kernel, reference: Kernel, cases: Sequence[Case] = CASES) -> dict[str, Any]:
    """Return the worst cosine and the total times of all cases. The error of a kernel is reported as `sage_error`."""
    try:
        compared = [compare(device, case, kernel, reference) for case in cases]
    except Exception as error:
        return {"sage_error": f"{type(error).__name__}: {error}"[:300]}
    cosines = [one.cosine for one in compared if one.cosine is not None]
    finite = all(one.finite for one in compared)
    return {
        "finite": finite,
        "cosine": min(cosines) if finite else None,
        "sage_ms": sum(one.ms for one in compared),
        "sdpa_ms": sum(one.reference_ms for one in compared),
    }


def _median(device: Device, work: Callable[[], object]) -> float:
    for _ in range(WARM_UPS):
        device.milliseconds(work)
    return statistics.median(device.milliseconds(work) for _ in range(REPETITIONS))


class CudaDevice:
    """A CUDA device. `torch` is the module."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def inputs(self, case: Case) -> tuple[Any, Any, Any]:
        generator = self._torch.Generator(device="cuda").manual_seed(1)
        shape = (case.batch, case.heads, case.length, case.head_dim)
        dtype = getattr(self._torch, case.dtype)
        query, key, value = (
            self._torch.randn(shape, generator=generator, device="cuda", dtype=dtype) for _ in range(3)
        )
        return query, key, value

    def cosine(self, one: Any, other: Any) -> float:
        similarity = self._torch.nn.functional.cosine_similarity
        return float(similarity(one.float().flatten(), other.float().flatten(), dim=0))

    def is_finite(self, tensor: Any) -> bool:
        return bool(self._torch.isfinite(tensor).all())

    def milliseconds(self, work: Callable[[], object]) -> float:
        # Kernels run asynchronously, so the device's own events measure them.
        begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        self._torch.cuda.synchronize()
        return float(begin.elapsed_time(end))


def sage_kernel() -> Kernel:
    """Return the kernel that SageAttention selects itself, called as ComfyUI does. Raises ImportError."""
    sageattn = import_module("sageattention").sageattn
    return lambda query, key, value: sageattn(query, key, value, is_causal=False, tensor_layout="HND")


def sage_version() -> str | None:
    """Return SageAttention's version; None if it is not installed."""
    try:
        return version("sageattention")
    except PackageNotFoundError:
        return None


def main() -> int:
    del sys.path[0]  # this file's folder: its modules must not shadow those that torch imports
    try:
        torch = import_module("torch")
    except ImportError as error:
        _tell({"torch": None, "torch_error": str(error)[:300]})
        return 0
    _tell({"torch": str(torch.__version__), "cuda": bool(torch.cuda.is_available()), "sageattention": sage_version()})
    if not torch.cuda.is_available():
        return 0
    device = torch.cuda.get_device_properties(0)
    capability = (device.major, device.minor)
    _tell({"gpu": device.name, "memory_bytes": device.total_memory, "capability": capability})
    if capability < OLDEST or sage_version() is None:
        return 0
    try:
        kernel = sage_kernel()
    except Exception as error:
        _tell({"sage_error": f"{type(error).__name__}: {error}"[:300]})
        return 0
    _tell(measure(CudaDevice(torch), kernel, torch.nn.functional.scaled_dot_product_attention))
    return 0


def _tell(facts: dict[str, Any]) -> None:
    # A library may have left an unfinished line.
    sys.stdout.write("\n" + json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
