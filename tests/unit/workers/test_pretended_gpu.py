"""The GPU that ComfyUI is made to see for a snapshot: torch's answers meanwhile, and the real values afterwards."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from workers.comfy.spec import ENGINE_SIDE

MANAGEMENT = """
from stand_in_torch import cuda

class Interrupted(Exception):
    pass

total = cuda.mem_get_info()[1]

def get_torch_device():
    return cuda.current_device()

def get_total_memory(device):
    return cuda.mem_get_info(device)[1]
"""


def _loaded() -> ModuleType:
    """Load the module by its path, because the package around it imports ComfyUI."""
    path = ENGINE_SIDE / "comfyui_modal_worker" / "pretended_gpu.py"
    spec = importlib.util.spec_from_file_location("pretended_gpu", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _own_answers() -> SimpleNamespace:
    """Return the answers of a torch that has a GPU of 80 GB."""
    device = SimpleNamespace(type="cuda", index=0)
    return SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: device,
        get_device_name=lambda *_: "real",
        get_device_capability=lambda *_: (9, 0),
        get_device_properties=lambda *_: None,
        mem_get_info=lambda *_: (80, 80),
        memory_stats=lambda *_: {},
    )


@pytest.fixture
def torch(tmp_path: Path) -> Iterator[ModuleType]:
    """Importable stand-ins of torch and of ComfyUI's memory management."""
    torch = ModuleType("stand_in_torch")
    vars(torch).update(cuda=_own_answers(), device=lambda kind, index: SimpleNamespace(type=kind, index=index))
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "__init__.py").touch()
    (tmp_path / "comfy" / "model_management.py").write_text(MANAGEMENT)
    sys.modules["stand_in_torch"] = torch
    sys.path.insert(0, str(tmp_path))
    try:
        yield torch
    finally:
        sys.path.remove(str(tmp_path))
        for name in ("stand_in_torch", "comfy", "comfy.model_management"):
            sys.modules.pop(name, None)


SAGE = """
try:
    from . import hopper
    SM90_ENABLED = True
except ImportError:
    SM90_ENABLED = False

def sageattn():
    return hopper.NAME if SM90_ENABLED else "switched off"
"""


def test_kernels_that_need_the_driver_are_imported_again(torch: ModuleType, tmp_path: Path) -> None:
    """SageAttention's kernels are imported again after the snapshot, also for code that had imported its function
    before."""
    package = tmp_path / "sageattention"
    package.mkdir()
    (package / "__init__.py").write_text("from .core import sageattn\n")
    (package / "core.py").write_text(SAGE)
    (package / "hopper.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')\n")
    gpu = _loaded().gpu
    gpu.begin(torch)
    try:
        importlib.import_module("comfy.model_management")
        sageattn = importlib.import_module("sageattention").sageattn
        assert sageattn() == "switched off"
        (package / "hopper.py").write_text("NAME = 'the kernel for Hopper'\n")
        importlib.invalidate_caches()
        gpu.end()
        assert sageattn() == "the kernel for Hopper"
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "sageattention"]:
            del sys.modules[name]


def test_snapshot_values_are_refreshed(torch: ModuleType) -> None:
    """After the snapshot ComfyUI has the real memory size and device, and its exception classes stay the same
    objects."""
    pretended = _loaded()
    gpu = pretended.gpu
    gpu.begin(torch)
    management = importlib.import_module("comfy.model_management")
    interrupted = management.Interrupted
    assert (management.total, management.get_torch_device().type) == (pretended.MEMORY_BYTES, "cuda")
    assert gpu.end() == {"device": "cuda", "memory_bytes": 80}
    assert management.total == 80
    assert management.Interrupted is interrupted
    assert torch.cuda.get_device_name() == "real"


def test_a_missing_gpu_raises_torchs_error(torch: ModuleType) -> None:
    """Without a GPU after the snapshot, torch's own error is raised."""
    gpu = _loaded().gpu

    def no_driver(*_: object) -> None:
        raise RuntimeError("no driver")

    torch.cuda.mem_get_info = no_driver
    gpu.begin(torch)
    importlib.import_module("comfy.model_management")
    with pytest.raises(RuntimeError, match="no driver"):
        gpu.end()
