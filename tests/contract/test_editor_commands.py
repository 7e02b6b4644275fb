"""`comfyui-modal workflows convert` and `comfyui-modal run` with files of ComfyUI's editor."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from infra.cli.output import FAILED, REFUSED
from infra.cli.root import main
from tests.compare_editor.cases import OBJECT_INFO, Draft
from tests.support.api_server import KEY, Api
from workflows.library import library

pytestmark = pytest.mark.anyio

Typed = Callable[..., Awaitable[tuple[int, str, str]]]


def document(kind: str = "DemoInt") -> dict[str, Any]:
    draft = Draft().node(1, "DemoSource").node(2, "SaveImage", ("pic",), title="Result").node(3, kind, (4,))
    return draft.node(4, "DemoInt", (1,), mode=2).link(1, 1, 2, "images", "IMAGE").document()


@pytest.fixture
def typed(memory_api: Api, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Runs a command line and returns its exit code, output and errors."""

    async def run(*arguments: str) -> tuple[int, str, str]:
        target = ("--api-url", str(memory_api.client.base_url), "--api-key", KEY)
        code = await anyio.to_thread.run_sync(lambda: main([*arguments, *target]))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "object_info.json"
    path.write_text(json.dumps(OBJECT_INFO))
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "editor.json"
    path.write_text(json.dumps(document()))
    return path


async def test_a_file_is_converted_without_a_deployment(typed: Typed, saved: Path, recorded: Path) -> None:
    """With a recorded object_info the graph is printed, and what was left out on standard error."""
    code, graph, notes = await typed("workflows", "convert", str(saved), "--object-info", str(recorded))
    assert (code, notes) == (0, "node 4 (DemoInt): left out, because it is muted\n")
    assert json.loads(graph)["2"]["inputs"] == {"filename_prefix": "pic", "images": ["1", 1]}


async def test_the_deployment_converts_as_well(memory_api: Api, typed: Typed, saved: Path, tmp_path: Path) -> None:
    """Without object_info the deployment's node classes count, and the graph can be written to a file."""
    await memory_api.stores.engine_info.publish("default", OBJECT_INFO, comfyui_version="0.33.0")
    out = tmp_path / "api.json"
    code, _, notes = await typed("workflows", "convert", str(saved), "--out", str(out))
    assert (code, "written" in notes) == (0, True)
    assert json.loads(out.read_text()).keys() == {"1", "2", "3"}


@pytest.mark.parametrize("offline", [True, False])
async def test_unknown_classes_are_named(
    memory_api: Api, typed: Typed, tmp_path: Path, recorded: Path, offline: bool
) -> None:
    """Missing classes are listed, and nothing is written."""
    await memory_api.stores.engine_info.publish("default", OBJECT_INFO, comfyui_version="0.33.0")
    saved = tmp_path / "other.json"
    saved.write_text(json.dumps(document("PackNode")))
    code, graph, errors = await typed(
        "workflows", "convert", str(saved), *(["--object-info", str(recorded)] if offline else [])
    )
    assert (code, graph) == (FAILED, "")
    assert "unknown class: PackNode" in errors


async def test_a_node_that_cannot_be_converted_is_refused_by_name(typed: Typed, tmp_path: Path, recorded: Path) -> None:
    """The message has the node, the reason and what to do."""
    saved = tmp_path / "film.json"
    saved.write_text(json.dumps(Draft().node(7, "Save3DAdvanced", ("p", "", 0, 5), title="Film").document()))
    code, _, errors = await typed("workflows", "convert", str(saved), "--object-info", str(recorded))
    assert code == REFUSED
    assert "node 7 “Film” (Save3DAdvanced): its width, height" in errors
    assert "→ set width and height" in errors


async def test_a_picture_brings_its_workflow(memory_api: Api, typed: Typed, tmp_path: Path, recorded: Path) -> None:
    """A PNG that ComfyUI made can be converted and run; one without a workflow is refused."""
    await memory_api.stores.engine_info.publish("default", OBJECT_INFO, comfyui_version="0.33.0")
    info = PngInfo()
    info.add_text("workflow", json.dumps(document()))
    with_workflow, without = tmp_path / "a.png", tmp_path / "b.png"
    Image.new("RGB", (2, 2)).save(with_workflow, pnginfo=info)
    Image.new("RGB", (2, 2)).save(without)
    code, graph, _ = await typed("workflows", "convert", str(with_workflow), "--object-info", str(recorded))
    assert (code, len(json.loads(graph))) == (0, 3)
    assert (await typed("run", str(with_workflow), "--detach"))[0] == 0
    code, _, errors = await typed("run", str(without), "--detach")
    assert (code, "has no workflow in it" in errors) == (REFUSED, True)


async def test_run_takes_the_editors_file(memory_api: Api, typed: Typed, saved: Path) -> None:
    """The file is submitted as it is, and `--set` names nodes by their ids."""
    await memory_api.stores.engine_info.publish("default", OBJECT_INFO, comfyui_version="0.33.0")
    code, printed, _ = await typed("run", str(saved), "--set", "2.filename_prefix=other", "--detach")
    assert code == 0
    job = (await memory_api.client.get(f"/v1/jobs/{printed.split()[0]}")).json()
    assert job["workflow_format"] == "editor"


@pytest.mark.parametrize("offline", [True, False])
async def test_a_named_workflow_is_made_of_a_file(
    memory_api: Api, typed: Typed, saved: Path, recorded: Path, tmp_path: Path, offline: bool
) -> None:
    """`workflows add` writes a graph and a manifest that the API loads, names the next step, and overwrites nothing."""
    await memory_api.stores.engine_info.publish("default", OBJECT_INFO, comfyui_version="0.33.0")
    folder, source = tmp_path / "mine", (["--object-info", str(recorded)] if offline else [])
    command = ("workflows", "add", str(saved), "--name", "poster", "--out", str(folder), *source)
    code, printed, _ = await typed(*command)
    assert (code, f"COMFYUI_MODAL_WORKFLOWS_DIR={folder}" in printed) == (0, True)
    assert "comfyui-modal run poster" in printed
    workflow = library(folder)["poster"]
    assert workflow.graph.keys() == {"1", "2", "3"}
    manifest = folder / "poster.toml"
    assert "#[inputs.filename_prefix]" in manifest.read_text()
    manifest.write_text("changed")
    code, _, errors = await typed(*command)
    assert (code, "is not overwritten" in errors, manifest.read_text()) == (REFUSED, True, "changed")


@pytest.mark.parametrize(("name", "reason"), [("still", "shipped"), ("A b", "no name"), ("../x", "no name")])
async def test_a_name_that_no_workflow_can_have_is_refused(
    typed: Typed, saved: Path, recorded: Path, tmp_path: Path, name: str, reason: str
) -> None:
    """A name is refused before anything is written."""
    out = tmp_path / "mine"
    command = ("workflows", "add", str(saved), "--name", name, "--out", str(out), "--object-info", str(recorded))
    code, _, errors = await typed(*command)
    assert (code, reason in errors, out.exists()) == (REFUSED, True, False)


@pytest.mark.parametrize("offline", [True, False])
async def test_a_workflow_is_inspected(
    memory_api: Api, typed: Typed, tmp_path: Path, recorded: Path, offline: bool
) -> None:
    """`workflows inspect` lists packs and models, and what is lacking, from the deployment or a recording."""
    await memory_api.stores.engine_info.publish("default", OBJECT_INFO, comfyui_version="0.33.0")
    noted = {"models": [{"name": "a.safetensors", "directory": "loras", "url": "https://example.com/a.safetensors"}]}
    saved = tmp_path / "other.json"
    draft = Draft().node(1, "DemoWord", ("a.safetensors", 1), properties=noted)
    saved.write_text(json.dumps(draft.node(2, "PackNode", properties={"aux_id": "me/pack"}).document()))
    source = ["--object-info", str(recorded)] if offline else []
    code, printed, _ = await typed("workflows", "inspect", str(saved), *source)
    assert code == 0
    assert "  me/pack: PackNode" in printed
    assert "  lacking  loras/a.safetensors  https://example.com/a.safetensors" in printed
    assert "lacks the node classes PackNode" in printed
    assert "add these packs to infra/nodes.toml" in printed
    assert "models sync --from-workflow" in printed
    code, printed, _ = await typed("workflows", "inspect", str(saved), "--json", *source)
    assert (code, json.loads(printed)["missing_classes"]) == (0, ["PackNode"])
