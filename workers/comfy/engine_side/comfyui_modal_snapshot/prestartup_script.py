"""ComfyUI runs this first. The GPU is pretended from the moment when ComfyUI's memory management is imported, which
asks for it, and torch is there by then; to import torch here would be too early for ComfyUI's own settings of it."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

NAME = "comfyui_modal_pretended_gpu"


class BeforeMemoryManagement:
    """A finder that finds nothing, and is asked once."""

    def __init__(self, pretended: ModuleType) -> None:
        self._pretended = pretended

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == self._pretended.MEMORY_MANAGEMENT:
            sys.meta_path.remove(self)
            self._pretended.gpu.begin(importlib.import_module("torch"))
        return None


if os.environ.get("COMFYUI_MODAL_PRETEND_GPU") == "1":
    spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("pretended_gpu.py"))
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
        sys.meta_path.insert(0, BeforeMemoryManagement(module))
