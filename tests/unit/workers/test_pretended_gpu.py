"""The GPU that is pretended to ComfyUI for a snapshot: what torch says meanwhile, and that it is asked again."""

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
    """By its path, as in ComfyUI's process: the package around it is ComfyUI's to import."""
    path = ENGINE_SIDE / "comfyui_modal_worker" / "pretended_gpu.py"
    spec = importlib.util.spec_from_file_location("pretended_gpu", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _own_answers() -> SimpleNamespace:
    """Of a torch that has a GPU of 80 GB."""
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
    """Stand-ins of torch and of ComfyUI's memory management, importable as theirs are."""
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
    """Also for those who have imported SageAttention's function before: on an H100 it would raise for ever."""
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


def test_what_was_frozen_is_asked_again(torch: ModuleType) -> None:
    """The memory that ComfyUI believes in, the device, and exceptions that others have imported stay the same."""
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


def test_where_there_is_no_gpu_it_says_so(torch: ModuleType) -> None:
    """As torch does, whatever it raises."""
    gpu = _loaded().gpu

    def no_driver(*_: object) -> None:
        raise RuntimeError("no driver")

    torch.cuda.mem_get_info = no_driver
    gpu.begin(torch)
    importlib.import_module("comfy.model_management")
    with pytest.raises(RuntimeError, match="no driver"):
        gpu.end()
