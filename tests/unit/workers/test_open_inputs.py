"""Classes that accept inputs of any name, detected inside ComfyUI's process."""

import importlib.util
from types import ModuleType
from typing import Any

import pytest

from workers.comfy.spec import ENGINE_SIDE


class Everything(dict[str, Any]):
    """A mapping that contains every name, as packs declare it; object_info shows an ordinary dict."""

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: str) -> Any:
        return ("*",)


def node_class(declared: Any) -> type:
    return type("Node", (), {"INPUT_TYPES": classmethod(lambda _: declared)})


def raising() -> type:
    def fails(_: type) -> Any:
        raise FileNotFoundError("models/missing")

    return type("Node", (), {"INPUT_TYPES": classmethod(fails)})


@pytest.fixture(scope="module")
def engine_side() -> ModuleType:
    """The engine-side module, loaded by its path as ComfyUI does."""
    path = ENGINE_SIDE / "comfyui_modal_worker" / "inputs.py"
    spec = importlib.util.spec_from_file_location("open_inputs_of_engine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_class_that_declares_every_name_is_open(engine_side: ModuleType) -> None:
    """A class is open if any of its input groups contains every name or if it sets the flag of the newer API."""
    plain = {"required": {"image": ("IMAGE",)}, "optional": {"mask": ("MASK",)}}
    flagged = node_class(plain)
    vars_of_flag = {"ACCEPT_ALL_INPUTS": True}
    classes = {
        "Plain": node_class(plain),
        "Nothing": node_class({}),
        "Optional": node_class({**plain, "optional": Everything(a=("*",))}),
        "Required": node_class({"required": Everything()}),
        "Hidden": node_class({**plain, "hidden": Everything()}),
        "Flagged": type("Flagged", (flagged,), vars_of_flag),
    }
    assert engine_side.open_inputs(classes) == {
        "Plain": False,
        "Nothing": False,
        "Optional": True,
        "Required": True,
        "Hidden": True,
        "Flagged": True,
    }


def test_a_broken_class_is_left_out(engine_side: ModuleType) -> None:
    """A class that fails to declare its inputs is left out, and the others are reported."""
    classes = {"Raising": raising(), "None": node_class(None), "NoClass": object(), "Plain": node_class({})}
    assert engine_side.open_inputs(classes) == {"Plain": False}
