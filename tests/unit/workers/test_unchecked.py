"""Values that ComfyUI leaves to a class to check, detected inside ComfyUI's process."""

import importlib.util
from types import ModuleType
from typing import Any

import pytest

from workers.comfy.spec import ENGINE_SIDE


class Anything(list[str]):
    """A list of choices that contains every value, as packs declare choices made at run time."""

    def __contains__(self, key: object) -> bool:
        return True


def node_class(check: Any = None, **required: Any) -> type:
    members = {"INPUT_TYPES": classmethod(lambda _: {"required": required, "optional": {"size": ("INT", {"min": 1})}})}
    return type("Node", (), members if check is None else {**members, "VALIDATE_INPUTS": classmethod(check)})


def checks_mode(cls: type, mode: str) -> bool:
    return mode == "a"


def checks_any(cls: type, mode: str, **rest: Any) -> bool:
    return mode == "a" and not rest


@pytest.fixture(scope="module")
def engine_side() -> ModuleType:
    """The engine-side module, loaded by its path as ComfyUI does."""
    path = ENGINE_SIDE / "comfyui_modal_worker" / "inputs.py"
    spec = importlib.util.spec_from_file_location("unchecked_of_engine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(engine_side: ModuleType, node: Any, *, compares_new_combos: bool = True) -> list[str] | None:
    def check_of(known: Any) -> Any:
        return getattr(known, "VALIDATE_INPUTS", None)

    names = engine_side.unchecked_inputs({"Node": node}, check_of, compares_new_combos=compares_new_combos)
    unchecked: list[str] | None = names.get("Node")
    return unchecked


def test_a_class_that_checks_nothing_leaves_all_to_comfyui(engine_side: ModuleType) -> None:
    """For a class without its own check ComfyUI compares all ranges and choices."""
    assert found(engine_side, node_class(mode=(["a", "b"],))) == []


def test_inputs_that_a_class_checks_itself_are_named(engine_side: ModuleType) -> None:
    """Inputs that are parameters of a class's check are named; a check that accepts any name covers all."""
    assert found(engine_side, node_class(checks_mode, mode=(["a"],))) == ["mode"]
    assert found(engine_side, node_class(checks_any, mode=(["a"],))) == ["*"]


def test_choices_that_comfyui_cannot_compare_are_named(engine_side: ModuleType) -> None:
    """Choices in a tuple, or in a list that contains everything, are named, because ComfyUI cannot compare them."""
    assert found(engine_side, node_class(mode=(("a", "b"),), other=(Anything(),))) == ["mode", "other"]


def test_choices_of_the_newer_api_depend_on_the_version(engine_side: ModuleType) -> None:
    """Choices of the newer API are named for versions such as ComfyUI 0.3.64, which do not compare them."""
    combo = node_class(mode=("COMBO", {"options": ["a"]}))
    assert found(engine_side, combo, compares_new_combos=False) == ["mode"]
    assert found(engine_side, combo) == []


def test_a_broken_class_is_left_out(engine_side: ModuleType) -> None:
    """A broken class is left out of the result."""
    assert found(engine_side, object()) is None
