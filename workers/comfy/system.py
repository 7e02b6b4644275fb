"""Parses ComfyUI's GET /system_stats, in which every field may be missing, and names the GPU as Modal does.

A node's code can make an engine answer anything, and every job's record repeats it: texts have a limit.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LONGEST = 100
"""Maximum characters of a text; the rest is cut."""
MOST_MEMORY = 2**50
"""Bytes; a GPU has less."""
_DEVICE_NAME = re.compile(r"(?:[a-z]+:\d+ )?(?P<name>.*?)(?: : .*)?", re.DOTALL)
"""ComfyUI writes `cuda:0 NVIDIA L40S : cudaMallocAsync`."""


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """`gpu` is None if ComfyUI runs on the CPU."""

    engine: str = "comfyui"
    comfyui_version: str | None = None
    python_version: str | None = None
    torch_version: str | None = None
    gpu: str | None = None
    gpu_memory_bytes: int | None = None


def system_facts(stats: Mapping[str, Any]) -> SystemFacts:
    system = stats.get("system")
    system = system if isinstance(system, dict) else {}
    gpu = _gpu(stats.get("devices"))
    memory = gpu.get("vram_total")
    return SystemFacts(
        engine=_text(system.get("engine")) or "comfyui",
        comfyui_version=_text(system.get("comfyui_version")),
        python_version=_first_word(system.get("python_version")),
        torch_version=_text(system.get("pytorch_version")),
        gpu=_device_name(gpu.get("name")),
        gpu_memory_bytes=memory if isinstance(memory, int) and 0 <= memory <= MOST_MEMORY else None,
    )


def _gpu(devices: object) -> Mapping[str, Any]:
    """Return the first device that is not a CPU."""
    found = devices if isinstance(devices, list) else []
    return next((one for one in found if isinstance(one, dict) and one.get("type") != "cpu"), {})


def _device_name(value: object) -> str | None:
    match = _DEVICE_NAME.fullmatch(_text(value) or "")
    return (match["name"] if match else "") or None


def _first_word(value: object) -> str | None:
    words = (_text(value) or "").split()
    return words[0] if words else None


def _text(value: object) -> str | None:
    """Return a text's first characters without control characters; None for anything else."""
    if not isinstance(value, str):
        return None
    return "".join(character for character in value[:LONGEST] if character.isprintable())


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
