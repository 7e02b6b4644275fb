"""The command and folders that an engine is started with."""

import sys
from pathlib import Path

import pytest

import comfyui_modal
from workers.comfy.spec import EngineFolders, EngineSpec, has_accelerator


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_comfyui_keeps_its_models_and_gets_the_workers_folders(tmp_path: Path) -> None:
    """ComfyUI gets the worker's writable folders and keeps its own model folder."""
    folders = EngineFolders(Path("worker"))
    spec = EngineSpec.comfyui(Path("/opt/comfyui"), python=Path("venv/bin/python"), folders=folders, cpu=False)
    parent = tmp_path / "worker"
    assert spec.cwd == Path("/opt/comfyui")
    assert list(spec.command[:2]) == [str(tmp_path / "venv/bin/python"), "main.py"]
    assert {
        f"--input-directory={parent}/input",
        f"--output-directory={parent}/output",
        f"--temp-directory={parent}",
        f"--user-directory={parent}/user",
        f"--database-url=sqlite:///{parent}/user/comfyui.db",
        "--disable-metadata",
        "--listen=127.0.0.1",
    } <= set(spec.command)
    assert not any(flag.startswith("--base-directory") for flag in spec.command)
    assert "--cpu" not in spec.command
    assert spec.environment == {}


def test_cpu_is_requested_without_an_accelerator() -> None:
    """`--cpu` is set by configuration or without an accelerator, and the default Python is the worker's own."""
    folders = EngineFolders(Path("worker"))
    assert "--cpu" in EngineSpec.comfyui(Path("/x"), python=None, folders=folders, cpu=True).command
    unsaid = EngineSpec.comfyui(Path("/x"), python=None, folders=folders)
    assert ("--cpu" in unsaid.command) == (not has_accelerator())
    assert unsaid.command[0] == sys.executable


@pytest.mark.parametrize("faults", [False, True])
def test_lite_offers_fault_nodes_only_on_request(faults: bool) -> None:
    """The lite engine offers nodes that fail on purpose only if they are requested."""
    spec = EngineSpec.lite(folders=EngineFolders(Path("worker")), fault_nodes=faults)
    assert ("--fault-nodes" in spec.command) == faults
    assert list(spec.command[:4]) == comfyui_modal.command("workers.lite")
    assert spec.cwd == spec.folders.parent


def test_the_folders_are_made(tmp_path: Path) -> None:
    """`make` creates every folder, because ComfyUI refuses to start without its user folder."""
    folders = EngineFolders(tmp_path / "a" / "b")
    folders.make()
    assert folders.input.is_dir()
    assert folders.output.is_dir()
    assert folders.temp.is_dir()
    assert folders.user.is_dir()
