"""Which values ComfyUI leaves to a class, as the code inside ComfyUI's process finds it out."""

import importlib.util
from types import ModuleType
from typing import Any

import pytest

from workers.comfy.spec import ENGINE_SIDE


class Anything(list[str]):
    """As packs declare choices that are made while ComfyUI runs."""

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
    """By its path, as ComfyUI imports it."""
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
    """Ranges and choices are compared as declared."""
    assert found(engine_side, node_class(mode=(["a", "b"],))) == []


def test_what_a_class_checks_itself_is_named(engine_side: ModuleType) -> None:
    """By the parameters of its function; one that takes any name checks all."""
    assert found(engine_side, node_class(checks_mode, mode=(["a"],))) == ["mode"]
    assert found(engine_side, node_class(checks_any, mode=(["a"],))) == ["*"]


def test_choices_that_comfyui_cannot_compare_are_named(engine_side: ModuleType) -> None:
    """A tuple is no list to it, and a list may say that it contains everything."""
    assert found(engine_side, node_class(mode=(("a", "b"),), other=(Anything(),))) == ["mode", "other"]


def test_choices_of_the_newer_api_depend_on_the_version(engine_side: ModuleType) -> None:
    """ComfyUI 0.3.64 does not look at them."""
    combo = node_class(mode=("COMBO", {"options": ["a"]}))
    assert found(engine_side, combo, compares_new_combos=False) == ["mode"]
    assert found(engine_side, combo) == []


def test_a_class_that_cannot_say_is_left_out(engine_side: ModuleType) -> None:
    """One broken class of a pack hides none of the others."""
    assert found(engine_side, object()) is None
