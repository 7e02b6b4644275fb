"""Parses ComfyUI's GET /system_stats, in which every field may be missing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
        gpu_memory_bytes=memory if isinstance(memory, int) else None,
    )


def _gpu(devices: object) -> Mapping[str, Any]:
    """Return the first device that is not a CPU."""
    found = devices if isinstance(devices, list) else []
    return next((one for one in found if isinstance(one, dict) and one.get("type") != "cpu"), {})


def _device_name(value: object) -> str | None:
    match = _DEVICE_NAME.fullmatch(value) if isinstance(value, str) else None
    return match["name"] if match else None


def _first_word(value: object) -> str | None:
    words = value.split() if isinstance(value, str) else []
    return words[0] if words else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
