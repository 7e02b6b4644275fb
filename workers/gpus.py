"""Translates drivers' names of GPUs to Modal's."""

import re

_NAMES = (
    (r"\bB300\b", "B300"),
    (r"\bB200\b", "B200"),
    (r"\bH200\b", "H200"),
    (r"\bH100\b", "H100"),
    (r"\bA100\b.*\b80GB\b", "A100-80GB"),
    (r"\bA100\b.*\b40GB\b", "A100-40GB"),
    (r"\bRTX PRO 6000\b", "RTX-PRO-6000"),
    (r"\bL40S\b", "L40S"),
    (r"\bA10G?\b", "A10"),
    (r"\bL4\b", "L4"),
    (r"\bT4\b", "T4"),
)


def gpu_name(driver_name: str) -> str:
    """Return Modal's name of a GPU, such as `A100-40GB` for `NVIDIA A100-SXM4-40GB`; others keep their name."""
    return next((name for pattern, name in _NAMES if re.search(pattern, driver_name)), driver_name)
