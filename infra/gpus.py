"""Modal's GPUs: architecture, memory and price, and the architectures for which SageAttention is built.

Sources: NVIDIA's table of compute capabilities; SageAttention's setup.py at the commit that `infra.image` pins, which
knows 8.0, 8.6, 8.9, 9.0, 10.0, 12.0 and 12.1; https://modal.com/pricing, as it was reported in September 2026.
"""

from collections.abc import Iterable, Mapping

ARCHITECTURES: Mapping[str, str] = {
    "T4": "7.5",
    "L4": "8.9",
    "A10": "8.6",
    "A10G": "8.6",
    "L40S": "8.9",
    "A100": "8.0",
    "A100-40GB": "8.0",
    "A100-80GB": "8.0",
    "RTX-PRO-6000": "12.0",
    "H100": "9.0",
    "H200": "9.0",
    "B200": "10.0",
    "B300": "10.3",
}
"""The architecture of each GPU, by the names of Modal's `gpu=`."""
MEMORY_GB: Mapping[str, int] = {
    "T4": 16,
    "L4": 24,
    "A10": 24,
    "A10G": 24,
    "L40S": 48,
    "A100": 40,
    "A100-40GB": 40,
    "A100-80GB": 80,
    "RTX-PRO-6000": 96,
    "H100": 80,
    "H200": 141,
    "B200": 180,
    "B300": 270,
}
"""Memory in GB by the same names, from Modal's guide and NVIDIA's tables. `A100` may have 40 or 80; 40 are certain."""
MODAL_USD_PER_S: Mapping[str, float] = {
    "T4": 0.000164,
    "L4": 0.000222,
    "A10": 0.000306,
    "L40S": 0.000542,
    "A100-40GB": 0.000583,
    "A100-80GB": 0.000694,
    "RTX-PRO-6000": 0.000842,
    "H100": 0.001097,
    "H200": 0.001261,
    "B200": 0.001736,
    "B300": 0.001972,
}
"""Base prices in USD a second by the same names. The setting `gpu_prices` takes precedence.

A chosen region and workers that cannot be preempted cost a multiple. The costs of jobs count the GPU alone.
"""

CPU_USD_PER_CORE_S = 0.0000131
"""The price of a requested physical core in USD a second."""
MEMORY_USD_PER_GIB_S = 0.00000222
SAGE_ARCHITECTURES = frozenset({"8.0", "8.6", "8.9", "9.0", "10.0", "12.0"})
"""Architectures of Modal's GPUs for which SageAttention 2 can be compiled."""
AUTO, NONE = "auto", "none"
"""Values of the setting `sage_architectures`: the deployment's GPUs, or an image without SageAttention 2."""


def architecture(gpu: str) -> str | None:
    """Return the architecture of a GPU as Modal's `gpu=` names it (`H100!` and `L40S:2` included); None if unknown."""
    # `H100!` asks Modal for exactly this GPU and no better one; `L40S:2` asks for two.
    return ARCHITECTURES.get(gpu.partition(":")[0].rstrip("!").upper())


def memory_gb(gpu: str) -> int | None:
    """Return the memory of a single GPU, since ComfyUI uses one; None for an unknown name."""
    return MEMORY_GB.get(gpu.partition(":")[0].rstrip("!").upper())


def sage_architectures(gpus: Iterable[str]) -> tuple[str, ...]:
    """Return the architectures for which SageAttention 2 must be built for these GPUs, in ascending order."""
    found = {architecture(gpu) for gpu in gpus} & SAGE_ARCHITECTURES
    return tuple(sorted((one for one in found if one is not None), key=float))


def expected_attention(gpu: str, built_for: Iterable[str]) -> str:
    """Describe the attention that a worker on this GPU most likely uses. The worker's own probe decides."""
    found = architecture(gpu)
    if found is None:
        return "torch's attention, unless SageAttention's kernels happen to fit: this version does not know the GPU"
    if found not in SAGE_ARCHITECTURES:
        return f"torch's attention: SageAttention has no kernels for architecture {found}"
    if found not in built_for:
        return f"torch's attention: the image is not built for architecture {found}"
    return f"SageAttention 2, built for architecture {found}"
