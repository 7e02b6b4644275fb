"""Simulates a GPU for torch while ComfyUI is imported for a snapshot. Runs in ComfyUI's process.

Without a GPU ComfyUI would not start, or choose the CPU for good. The functions of torch that it calls at import return
the values of a plausible GPU; nothing is computed. `end` restores torch's functions and makes ComfyUI detect the GPU
again.
"""

import importlib
import sys
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

MEMORY_BYTES = 48 * 1024**3
CAPABILITY = (8, 9)
NAME = "GPU of the snapshot"
MEMORY_MANAGEMENT = "comfy.model_management"
SAGE_KERNELS = "sageattention.core"
KERNELS = ("SM80_ENABLED", "SM89_ENABLED", "SM90_ENABLED")
"""SageAttention's flags of the kernels that it could import."""


class PretendedGpu:
    def __init__(self) -> None:
        self._cuda: Any = None
        self._own: dict[str, Any] = {}

    def begin(self, torch: Any) -> None:
        major, minor = CAPABILITY
        properties = SimpleNamespace(
            name=NAME, major=major, minor=minor, total_memory=MEMORY_BYTES, multi_processor_count=128, gcnArchName=""
        )
        answers = {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: torch.device("cuda", 0),  # an index would make torch call the driver
            "get_device_name": lambda *_: NAME,
            "get_device_capability": lambda *_: CAPABILITY,
            "get_device_properties": lambda *_: properties,
            "mem_get_info": lambda *_: (MEMORY_BYTES, MEMORY_BYTES),
            "memory_stats": lambda *_: defaultdict(int),
        }
        self._cuda = torch.cuda
        for name, answer in answers.items():
            self._own[name] = getattr(self._cuda, name)
            setattr(self._cuda, name, answer)

    def end(self) -> dict[str, Any]:
        """End the simulation and return the real device. ComfyUI's errors are passed on if there is no GPU."""
        for name, own in self._own.items():
            setattr(self._cuda, name, own)
        self._own.clear()
        management = sys.modules[MEMORY_MANAGEMENT]
        exceptions = {
            name: value
            for name, value in vars(management).items()
            if isinstance(value, type) and issubclass(value, BaseException)
        }
        importlib.reload(management)
        # Exception classes keep their identity, since other modules have imported them.
        vars(management).update(exceptions)
        _load_kernels_again()
        device = management.get_torch_device()
        return {"device": device.type, "memory_bytes": management.get_total_memory(device)}


def _load_kernels_again() -> None:
    """Reload SageAttention's kernels if one of them could not be imported before the restore."""
    kernels = sys.modules.get(SAGE_KERNELS)
    # SageAttention disables such a kernel for good. That for Hopper links the driver, which is missing at that time.
    if kernels is not None and any(name in KERNELS and not value for name, value in vars(kernels).items()):
        importlib.reload(kernels)  # functions that others have imported see the new values: they share the namespace


gpu = PretendedGpu()
