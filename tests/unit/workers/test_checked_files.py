"""Inputs that accept only names of existing files, detected by calls of the class inside ComfyUI's process."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from workers.comfy.spec import ENGINE_SIDE

TEXT = ("STRING", {"default": ""})


def node_class(check: Callable[..., Any], name: str, kind: Any = TEXT) -> type:
    members = {"INPUT_TYPES": classmethod(lambda _: {"required": {name: kind}, "optional": {"size": ("INT",)}})}
    return type("Node", (), {**members, "VALIDATE_INPUTS": classmethod(check)})


@pytest.fixture(scope="module")
def engine_side() -> ModuleType:
    """The engine-side module, loaded by its path as ComfyUI does."""
    path = ENGINE_SIDE / "comfyui_modal_worker" / "checked_files.py"
    spec = importlib.util.spec_from_file_location("checked_files_of_engine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def found(engine_side: ModuleType, tmp_path: Path) -> Callable[[type], Any]:
    def search(node: type) -> Any:
        checked = engine_side.CheckedFiles(lambda known: known.VALIDATE_INPUTS, str(tmp_path))
        checked.search({"Broken": object(), "Node": node})
        assert list(tmp_path.iterdir()) == []
        return checked.found.get("Node")

    return search


def test_an_input_for_existing_paths_is_detected(found: Callable[[type], Any]) -> None:
    """An input for existing paths is detected with its possible root folders and whether URLs pass."""

    def check(_: type, video: str) -> Any:
        return video.startswith("https://") or Path(video).is_file() or f"Invalid file path: {video}"

    about = found(node_class(check, "video"))["video"]
    assert {name: about[name] for name in ("is", "below", "urls", "empty")} == {
        "is": "file",
        "below": "engine",
        "urls": True,
        "empty": False,
    }
    assert {"/tmp", *(path.name for path in Path().iterdir())} <= set(about["roots"])  # noqa: S108  the name of a root, no file


def test_an_input_for_names_in_the_input_folder_is_detected(found: Callable[[type], Any], tmp_path: Path) -> None:
    """Inputs for files or non-empty folders of the input folder are detected, in a text or in a list of choices."""

    def check_file(_: type, audio: str, **rest: Any) -> Any:
        return (tmp_path / audio).is_file() or "no file"

    def check_folder(_: type, directory: str) -> Any:
        return (tmp_path / directory).is_dir() and any((tmp_path / directory).iterdir())

    file = {"is": "file", "below": "input", "urls": False, "empty": False}
    assert found(node_class(check_file, "audio")) == {"audio": file}
    folder = found(node_class(check_folder, "directory", (["a"],)))["directory"]
    assert (folder["is"], folder["below"]) == ("folder", "input")


@pytest.mark.parametrize(
    "check",
    [
        lambda _, name: bool(name),
        lambda _, name: f"never {name}",
        lambda _, name: name.endswith(".png"),
        lambda _, name, mode: Path(name).is_file() and mode,
        lambda _, input_types: bool(input_types),
        lambda _, **rest: bool(rest),
        lambda _, name: name[999],
        lambda _, name: Path("/nowhere/of/its/own", name).is_file(),
    ],
)
def test_other_checks_are_left_to_the_class(found: Callable[[type], Any], check: Callable[..., Any]) -> None:
    """A check that needs several inputs or reads its own folder is left to the class."""
    assert found(node_class(check, "name")) is None


def test_only_texts_are_tried(found: Callable[[type], Any]) -> None:
    """Only text inputs are tried, because a number or a picture names no file."""
    assert found(node_class(lambda _, name: Path(name).is_file(), "name", ("IMAGE",))) is None


def test_an_input_folder_that_cannot_be_written_ends_the_trial(engine_side: ModuleType, tmp_path: Path) -> None:
    """Without a writable input folder nothing is detected and nothing fails."""
    checked = engine_side.CheckedFiles(lambda known: known.VALIDATE_INPUTS, str(tmp_path / "missing"))
    checked.search({"Node": node_class(lambda _, name: Path(name).is_file(), "name")})
    assert checked.found == {}
