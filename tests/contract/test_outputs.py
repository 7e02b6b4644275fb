"""Node results become the job's outputs: files by description or by name, with their folders, and values."""

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from storage.jobs.models import Output
from storage.jobs.record import Status
from tests.support.engines import blank, save
from tests.support.workbench import Bench, workbench
from workers.comfy.spec import EngineFolders

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def engine_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
async def bench(engine_folder: Path) -> AsyncIterator[Bench]:
    async with workbench(engine_folder) as bench:
        yield bench


def emits(ui: dict[str, Any], write: str = "") -> dict[str, Any]:
    return {"class_type": "LiteEmit", "inputs": {"ui": json.dumps(ui), "write": write}}


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2)).save(file, "PNG")
    return file.getvalue()


async def outputs(bench: Bench, graph: dict[str, Any], **fields: Any) -> tuple[Output, ...]:
    record = await bench.run(graph, **fields)
    assert record.status is Status.COMPLETED, record.error_detail
    return record.outputs


async def body(bench: Bench, output: Output) -> bytes:
    return (await bench.objects.get(output.key)).body


async def test_a_3d_file_reported_by_its_name_is_an_output(bench: Bench) -> None:
    """A 3D file that is reported by name in a list, as by SaveGLB and Preview3D, becomes an output."""
    (output,) = await outputs(bench, {"1": emits({"result": ["3d/x.glb", None, []]}, "3d/x.glb")})
    assert (output.filename, output.subfolder, output.type, output.is_preview) == ("x.glb", "3d", "model", False)
    assert await body(bench, output) == b"glTF3d/x.glb"


async def test_a_name_without_a_file_is_a_value(bench: Bench) -> None:
    """A reported path without a file is delivered as a value."""
    reported: list[Any] = ["3d/gone.glb", None, []]
    (output,) = await outputs(bench, {"1": emits({"result": reported})})
    assert output.filename == "ui_output_1_result.json"
    assert json.loads(await body(bench, output)) == reported


@pytest.mark.parametrize(
    "name", ["x.png", "x.png [temp]", "a/../x.png", "{temp}/x.png"], ids=["plain", "marked", "with dots", "absolute"]
)
async def test_a_temporary_file_is_a_preview(bench: Bench, engine_folder: Path, name: str) -> None:
    """A temporary file becomes a preview in every notation of its name, without a path of the machine."""
    graph = {"1": emits({"result": [name.format(temp=EngineFolders(engine_folder).temp)]}, "x.png [temp]")}
    (output,) = await outputs(bench, graph)
    assert (output.filename, output.subfolder, output.is_preview) == ("x.png", "", True)


async def test_names_of_other_files_are_texts(bench: Bench, tmp_path: Path) -> None:
    """A name of a file outside the output and temp folders, even of an input file, is a text."""
    secret = tmp_path / "secret.txt"
    secret.write_text("do not store me")
    names = [str(secret), "../input/in.png", "in.png", "/etc/hostname", "../../" * 20 + "etc/hostname", "x\0", ".", ""]
    medium = await bench.input_file("in.png", png())
    (output,) = await outputs(bench, {"1": emits({"result": names})}, input_files=(medium,))
    assert json.loads(await body(bench, output)) == names


async def test_results_that_differ_by_folder_have_distinct_names(bench: Bench) -> None:
    """Outputs of equal name have the folder in `subfolder`, and all but the first also before the name."""
    graph = {"1": blank(), "2": save("1", "x"), "3": save("1", "a/x"), "4": save("1", "a/b/x")}
    found = {output.node_id: (output.filename, output.subfolder) for output in await outputs(bench, graph)}
    assert found == {
        "2": ("x_00001_.png", ""),
        "3": ("a_x_00001_.png", "a"),
        "4": ("a_b_x_00001_.png", "a/b"),
    }
    graph = {"1": blank(), "2": save("1", "a/x"), "3": save("1", "x")}
    assert [output.filename for output in await outputs(bench, graph)] == ["x_00001_.png", "output_x_00001_.png"]


async def test_a_preview_is_marked(bench: Bench) -> None:
    """A preview is distinguished from a result by its folder."""
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    found = await outputs(bench, {"1": blank(), "2": save("1", "x"), "3": preview})
    assert {output.node_id: output.is_preview for output in found} == {"2": False, "3": True}
