"""No response, event or log of a failed job or a refused file names a folder of the machine."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from storage.errors import FileRefused
from storage.intake.host_paths import HostPaths
from storage.intake.media_check import MediaCheck, MediaLimits
from storage.jobs.record import JobRecord
from tests.support.api_server import PNG
from tests.support.scripted_comfy import Answer, Play
from tests.support.stage import Stage, paint, stage
from tests.support.workbench import Bench, workbench

pytestmark = pytest.mark.anyio

PICTURE = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255}}
SAVED = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}


async def _shown(on: Bench, record: JobRecord) -> str:
    """The job's record and log, which are all that its tenant may read."""
    log = await on.stores.logs.tail("default", record.job_id, record.attempt, 500)
    return "\n".join([record.model_dump_json(), *(log or ())])


FAILING_GRAPHS: dict[str, dict[str, Any]] = {
    "a node raises": {"1": PICTURE, "2": {"class_type": "LiteRaise", "inputs": {"image": ["1", 0], "kind": "value"}}},
    "a file is no picture": {"1": {"class_type": "LoadImage", "inputs": {"image": "broken.png"}}},
    "a file is missing": {"1": {"class_type": "LoadImage", "inputs": {"image": "missing.png"}}},
    "an output is missing": {
        "1": PICTURE,
        "3": {
            "class_type": "LiteEmit",
            "inputs": {"ui": '{"images": [{"filename": "no.png", "subfolder": "", "type": "output"}]}'},
        },
    },
    "an output leaves its folder": {
        "1": PICTURE,
        "3": {
            "class_type": "LiteEmit",
            "inputs": {"ui": '{"images": [{"filename": "../../x.png", "subfolder": "", "type": "output"}]}'},
        },
    },
    "the engine dies": {"1": PICTURE, "2": {"class_type": "LiteRaise", "inputs": {"image": ["1", 0], "kind": "crash"}}},
}


async def test_jobs_that_fail_in_the_lite_engine_name_no_folder(tmp_path: Path) -> None:
    """A failed job names no folder, whether a node, a file, an output or the engine failed."""
    async with workbench(tmp_path / "engine") as on:
        cut = await on.input_file("broken.png", PNG[:40])
        for graph in FAILING_GRAPHS.values():
            needs = "broken.png" in str(graph)
            record = await on.run({"2": SAVED, **graph}, input_files=(cut,) if needs else ())
            assert record.status == "failed"
            shown = await _shown(on, record)
            for secret in (str(tmp_path), tempfile.gettempdir() + "/", str(Path.cwd()), sys.prefix):
                assert secret not in shown, shown


TRACEBACK = (
    'No such file: {folder}/input/a.png\n  File "/home/bob/ComfyUI/nodes.py", line 3\nC:\\Users\\bob\\b.safetensors'
)


async def _scripted(on: Stage) -> str:
    claimed = await on.claimed()
    record = (await on.run(claimed)).stored.record
    log = await on.logs.tail("default", record.job_id, record.attempt, 100) or ()
    return "\n".join([record.error_detail.model_dump_json() if record.error_detail else "", *log])


async def test_a_traceback_of_comfyui_names_no_folder(tmp_path: Path) -> None:
    """The folders of a ComfyUI traceback appear neither in the job's error nor in its log."""
    text = TRACEBACK.format(folder=tmp_path)

    async def script(play: Play) -> None:
        on.log.append(text)
        await paint(play, tmp_path)
        error: dict[str, Any] = {
            "node_id": "1",
            "node_type": "Load",
            "exception_message": text,
            "exception_type": "OSError",
        }
        error |= {"prompt_id": play.prompt_id, "executed": [], "traceback": [text], "current_inputs": {}}
        await play.say("execution_error", **error)
        play.record({}, status="error", messages=[["execution_error", error]])

    async with stage(tmp_path, script) as on:
        shown = await _scripted(on)
    assert "No such file: input/a.png" in shown
    assert "ComfyUI/nodes.py" in shown
    assert not any(word in shown for word in (str(tmp_path), "bob", "Users"))


async def test_a_refusal_of_comfyui_names_no_folder(tmp_path: Path) -> None:
    """The folders of a ComfyUI refusal are removed from its message and from `node_errors` at any depth."""
    text = f"Invalid image file: {tmp_path}/input/a.png"
    details = {"errors": [{"type": "custom_validation_failed", "message": text, "details": text}], "class_type": "Load"}

    async def script(play: Play) -> None:
        raise AssertionError("nothing was accepted")

    async with stage(tmp_path, script) as on:
        error = {"type": "prompt_outputs_failed_validation", "message": text, "details": text}
        on.comfy.state.answers = [Answer(400, {"error": error, "node_errors": {"1": details}})]
        shown = await _scripted(on)
    assert "Invalid image file: input/a.png" in shown
    assert str(tmp_path) not in shown


@pytest.mark.parametrize(
    "body",
    [PNG[:20], PNG[:40], b"BM" + bytes(60), b"\xff\xd8\xff\xe0" + bytes(30)],
    ids=["head", "cut", "bmp", "jpeg"],
)
async def test_a_refused_file_does_not_show_its_path(tmp_path: Path, body: bytes) -> None:
    """The error of a refused file does not contain its path, which Pillow includes in some messages."""
    (tmp_path / "medium").write_bytes(body)
    with pytest.raises(FileRefused) as refused:
        await MediaCheck().check(tmp_path / "medium", MediaLimits())
    assert str(tmp_path) not in str(refused.value)
    assert HostPaths().hidden(str(refused.value)) == str(refused.value)
