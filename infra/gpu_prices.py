"""Modal's prices of GPUs, cores and memory, a dated copy. The setting `gpu_prices` takes precedence.

Source: https://modal.com/pricing, as it was reported in September 2026. Base prices: a chosen region and workers that
cannot be preempted cost a multiple. The costs of jobs count the GPU alone.
"""

from collections.abc import Mapping

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
"""Prices in USD a second, by the names of Modal's `gpu=`."""

CPU_USD_PER_CORE_S = 0.0000131
"""The price of a requested physical core in USD a second."""
MEMORY_USD_PER_GIB_S = 0.00000222
