"""ComfyUI runs this first: it has the server listen on the worker's socket and, for a snapshot, pretends a GPU.

The GPU is pretended from the moment when ComfyUI's memory management is imported, which asks for it, and torch is there
by then; to import torch here would be too early for ComfyUI's own settings of it.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


class BeforeMemoryManagement:
    """A finder that finds nothing, and is asked once."""

    def __init__(self, pretended: ModuleType) -> None:
        self._pretended = pretended

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == self._pretended.MEMORY_MANAGEMENT:
            sys.meta_path.remove(self)
            self._pretended.gpu.begin(importlib.import_module("torch"))
        return None


def _load(name: str) -> ModuleType:
    """The module beside this file, by its path: ComfyUI has not made a package of this folder yet."""
    spec = importlib.util.spec_from_file_location(f"comfyui_modal_{name}", Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if socket := os.environ.get("COMFYUI_MODAL_ENGINE_SOCKET"):
    _load("unix_socket").listen_on(socket)
if os.environ.get("COMFYUI_MODAL_PRETEND_GPU") == "1":
    sys.meta_path.insert(0, BeforeMemoryManagement(_load("pretended_gpu")))
