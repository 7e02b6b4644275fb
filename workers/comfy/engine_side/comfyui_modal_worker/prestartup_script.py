"""Runs first in ComfyUI: makes the server listen on the worker's socket and, for a snapshot, simulates a GPU.

The GPU is simulated from the import of ComfyUI's memory management on, which detects it. Torch is loaded by then; an
import of torch here would precede ComfyUI's own settings of it.
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
    """An import finder that finds nothing and acts once."""

    def __init__(self, pretended: ModuleType) -> None:
        self._pretended = pretended

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == self._pretended.MEMORY_MANAGEMENT:
            sys.meta_path.remove(self)
            # Torch is loaded by now. An earlier import of it would precede ComfyUI's own settings of it.
            self._pretended.gpu.begin(importlib.import_module("torch"))
        return None


def _load(name: str) -> ModuleType:
    """Load a module of this folder by its path."""
    # ComfyUI imports the folder as a package only after this script.
    spec = importlib.util.spec_from_file_location(f"comfyui_modal_{name}", Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # the package finds the simulated GPU by this name
    spec.loader.exec_module(module)
    return module


if socket := os.environ.get("COMFYUI_MODAL_ENGINE_SOCKET"):
    _load("unix_socket").listen_on(socket)
if os.environ.get("COMFYUI_MODAL_PRETEND_GPU") == "1":
    sys.meta_path.insert(0, BeforeMemoryManagement(_load("pretended_gpu")))
