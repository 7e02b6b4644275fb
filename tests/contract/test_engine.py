"""`ComfyEngine` and its driver: the lite engine and, where configured, real ComfyUI fulfil the same contract."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.cut_proxy import cutting
from tests.support.engines import EngineChoice, Graph, Host, blank, engine_choices, save, saved, slow
from workers.comfy.engine import FileRef, Prompt
from workers.comfy.execution import Execution, ExecutionPolicy
from workers.comfy.files import RemoteFiles
from workers.comfy.http import ComfyHttp
from workers.comfy.http_engine import HttpEngine
from workers.comfy.process import EngineProcess
from workers.errors import JobCancelled, NodeFailed, OutputFailed, PromptRefused, StagingFailed
from workflows.messages import Executed, Executing, ExecutionStart, ExecutionSuccess, Message

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=engine_choices(), ids=lambda choice: choice.name)
async def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    """One engine for the whole file, so each test also shows that the engine survived the previous test."""
    choice: EngineChoice = request.param
    host = choice.host(tmp_path_factory.mktemp("engine"))
    await host.start()
    yield host
    await host.stop()


@pytest.fixture(scope="module")
async def info(host: Host) -> dict[str, Any]:
    return await host.engine.object_info()


@pytest.fixture(params=["folders", "http"])
async def engine(request: pytest.FixtureRequest, host: Host) -> AsyncIterator[HttpEngine]:
    """The same server, with its files accessed as folders and over HTTP."""
    if request.param == "folders":
        yield host.engine
        return
    by_http = HttpEngine(host.engine.url)
    yield by_http
    await by_http.close()


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


def execution_of(engine: HttpEngine, graph: Graph, policy: ExecutionPolicy | None = None) -> Execution:
    return Execution(engine, Prompt(str(uuid.uuid4()), str(uuid.uuid4()), graph), policy)


async def follow(execution: Execution, on_message: Callable[[Message], None] = lambda _: None) -> list[Message]:
    messages = []
    async with asyncio.timeout(60):
        async for message in execution:
            messages.append(message)
            on_message(message)
    return messages


def outputs(messages: list[Message]) -> dict[str, Any]:
    executed = [message for message in messages if isinstance(message, Executed)]
    assert len({message.node for message in executed}) == len(executed), "an output was delivered twice"
    return {message.node: message.output for message in executed}


def only_file(ui: dict[str, Any]) -> FileRef:
    (entry,) = ui["images"]
    return FileRef(entry["filename"], entry["subfolder"], entry["type"])


async def is_idle(engine: HttpEngine) -> bool:
    """Waits until the queue is empty, because an interrupted node ends only at its next step."""
    http = ComfyHttp(engine.url)
    try:
        for _ in range(200):
            queue = await http.get_json("/queue")
            if not queue["queue_running"] and not queue["queue_pending"]:
                return True
            await asyncio.sleep(0.1)
        return False
    finally:
        await http.close()


async def histories(engine: HttpEngine) -> dict[str, Any]:
    http = ComfyHttp(engine.url)
    try:
        return await http.get_json("/history")
    finally:
        await http.close()


async def test_a_prompt_runs_from_submission_to_its_output_file(engine: HttpEngine, prefix: str) -> None:
    """Messages arrive in ComfyUI's order, history ends them, and the output file can be read."""
    execution = execution_of(engine, saved(f"{prefix}/x", color=0xFF0000))
    messages = await follow(execution)
    assert isinstance(messages[0], ExecutionStart)
    assert any(isinstance(message, ExecutionSuccess) for message in messages)
    assert isinstance(messages[-1], Executing)
    assert messages[-1].node is None
    assert execution.history is not None
    assert execution.history.status_str == "success"
    assert outputs(messages) == execution.history.outputs
    assert await histories(engine) == {}, "the engine keeps the graph and the results of a prompt that has ended"
    path = await engine.files.fetch(only_file(outputs(messages)["2"]), engine.files.private_folder())
    with Image.open(path) as image:
        assert (image.size, image.convert("RGB").getpixel((0, 0))) == ((16, 16), (255, 0, 0))


async def test_a_cached_prompt_delivers_its_outputs(host: Host, prefix: str) -> None:
    """A prompt that is served from the cache delivers its outputs once."""
    first = outputs(await follow(execution_of(host.engine, saved(prefix))))
    again = outputs(await follow(execution_of(host.engine, saved(prefix))))
    assert first == again
    assert set(again) == {"2"}


async def test_input_files_reach_the_nodes(engine: HttpEngine, prefix: str, tmp_path: Path) -> None:
    """A node finds a staged file by its name, even with spaces and umlauts, and staging moves the file."""
    name, path = f"{prefix} grün.png", tmp_path / "anything"
    Image.new("RGB", (7, 5), (0, 0, 255)).save(path, "PNG")
    await engine.files.stage(name, path)
    assert not path.exists()
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": name}}, "2": save("1", prefix)}
    found = outputs(await follow(execution_of(engine, graph)))
    with Image.open(await engine.files.fetch(only_file(found["2"]), engine.files.private_folder())) as image:
        assert (image.size, image.convert("RGB").getpixel((0, 0))) == ((7, 5), (0, 0, 255))


async def test_input_files_in_subfolders_reach_the_nodes(engine: HttpEngine, prefix: str, tmp_path: Path) -> None:
    """Nodes find files in subfolders by the names that the editor gives to pasted pictures."""
    for width, name in ((6, f"pasted/{prefix}/image (3).png"), (7, f"pasted/{prefix}/image (4).png")):
        path = tmp_path / "anything"
        Image.new("RGB", (width, 5)).save(path, "PNG")
        await engine.files.stage(name, path)
        graph = {"1": {"class_type": "LoadImage", "inputs": {"image": name}}, "2": save("1", prefix)}
        found = outputs(await follow(execution_of(engine, graph)))
        with Image.open(await engine.files.fetch(only_file(found["2"]), engine.files.private_folder())) as image:
            assert image.width == width


async def test_a_file_staged_again_is_replaced(engine: HttpEngine, prefix: str, tmp_path: Path) -> None:
    """Staging a file under an existing name replaces it."""
    sizes = []
    for width in (3, 4):
        path = tmp_path / "file"
        Image.new("RGB", (width, 2)).save(path, "PNG")
        await engine.files.stage(f"{prefix}.png", path)
        graph = {"1": {"class_type": "LoadImage", "inputs": {"image": f"{prefix}.png"}}, "2": save("1", prefix)}
        found = outputs(await follow(execution_of(engine, graph)))
        with Image.open(await engine.files.fetch(only_file(found["2"]), engine.files.private_folder())) as image:
            sizes.append(image.width)
    assert sizes == [3, 4]


@pytest.mark.parametrize("name", ["../x.png", "a/../../b.png", "a//b.png", "..", "", "/etc/x", "a\\b", "nul\0.png"])
async def test_a_name_outside_the_input_folder_is_refused(engine: HttpEngine, name: str, tmp_path: Path) -> None:
    """A file is never staged outside ComfyUI's input folder."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with pytest.raises(StagingFailed):
        await engine.files.stage(name, path)


@pytest.mark.parametrize(
    "ref",
    [
        FileRef("gone.png", "", "output"),
        FileRef("main.py", "../..", "output"),
        FileRef("/etc/hostname", "", "output"),
        FileRef("hostname", "/etc", "output"),
        FileRef("x.png", "", "models"),
    ],
)
async def test_an_output_outside_the_folders_is_refused(engine: HttpEngine, ref: FileRef) -> None:
    """A reported output that does not exist or lies outside the output folders fails."""
    with pytest.raises(OutputFailed):
        await engine.files.fetch(ref, engine.files.private_folder())


async def test_a_text_that_names_an_output_file_is_found(engine: HttpEngine, host: Host, prefix: str) -> None:
    """A text is matched to a file in the output or temporary folder by its relative path and by nothing else."""
    await engine.files.clean()
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    found = outputs(await follow(execution_of(engine, saved(f"{prefix}/x") | {"3": preview})))
    saved_ref, preview_ref = only_file(found["2"]), only_file(found["3"])
    names = {f"{prefix}/{saved_ref.filename}": saved_ref, preview_ref.filename: preview_ref}
    others = [
        *(saved_ref.filename, "../x.png", "/etc/host.conf", "x", "", "no\0name.png", "a" * 5_000, "text. More text"),
        f"{preview_ref.filename} [output]",
        f"{prefix}/../../{prefix}/{saved_ref.filename}",
    ]
    assert await engine.files.find([*others, *names]) == names
    assert await engine.files.find([f"{preview_ref.filename} [temp]"]) == {
        f"{preview_ref.filename} [temp]": preview_ref
    }
    assert (await engine.files.fetch(saved_ref, engine.files.private_folder())).stat().st_size


async def test_a_file_of_an_earlier_job_is_not_found(host: Host, prefix: str) -> None:
    """A text never matches an earlier job's file, since a ComfyUI by URL keeps the files of all its clients."""
    (entry,) = outputs(await follow(execution_of(host.engine, saved(prefix))))["2"]["images"]
    if isinstance(host, EngineProcess):
        files, ref = host.engine.files, FileRef(entry["filename"], "", "output")
        os.utime(await files.fetch(ref, files.private_folder()), (1e9, 1e9))
    by_url = HttpEngine(host.engine.url)
    try:
        assert await by_url.files.find([entry["filename"]]) == {}, "no job has started"
        await by_url.files.clean()
        found = await by_url.files.find([entry["filename"]])
        assert found == {} or not isinstance(host, EngineProcess)
    finally:
        await by_url.close()


async def test_a_node_that_raises_is_named(engine: HttpEngine, prefix: str, tmp_path: Path) -> None:
    """A file that is no picture passes ComfyUI's checks, and the failure at run time names the node."""
    path = tmp_path / "file"
    path.write_bytes(b"not a picture")
    await engine.files.stage(f"{prefix}.png", path)
    graph = {"7": {"class_type": "LoadImage", "inputs": {"image": f"{prefix}.png"}}, "2": save("7", prefix)}
    execution = execution_of(engine, graph)
    with pytest.raises(NodeFailed) as caught:
        await follow(execution)
    assert (caught.value.node_id, caught.value.class_type) == ("7", "LoadImage")
    assert caught.value.exception_type
    assert caught.value.message
    assert execution.history is not None


@pytest.mark.parametrize(
    ("graph", "node_id"),
    [
        ({"1": {"class_type": "NoSuchNode", "inputs": {}}, "2": save("1", "x")}, "1"),
        ({"1": blank(width=10**6), "2": save("1", "x")}, "1"),
        ({"1": blank(), "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}, "2"),
        ({"1": blank()}, None),
    ],
)
async def test_a_refusal_by_comfyui_is_reported(host: Host, graph: Graph, node_id: str | None) -> None:
    """A refused prompt gives ComfyUI's reason and, if known, the node."""
    with pytest.raises(PromptRefused) as caught:
        await follow(execution_of(host.engine, graph))
    assert caught.value.node_id == node_id
    assert caught.value.message
    assert await is_idle(host.engine)


@pytest.mark.parametrize("is_strict", [False, True])
async def test_a_partly_bad_prompt_runs_its_valid_outputs(
    host: Host, info: dict[str, Any], prefix: str, *, is_strict: bool
) -> None:
    """With one bad output of two, the valid output runs and the error is reported; a strict prompt is withdrawn."""
    graph = slow(info, prefix, steps=2) | {"99": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}
    prompt = Prompt(str(uuid.uuid4()), str(uuid.uuid4()), graph, is_strict=is_strict)
    execution = Execution(host.engine, prompt)
    if is_strict:
        with pytest.raises(PromptRefused) as caught:
            await follow(execution)
        assert caught.value.node_id == "99"
        assert prompt.prompt_id not in await histories(host.engine)
    else:
        await follow(execution)
        assert execution.node_errors is not None
        assert execution.node_errors["99"]["dependent_outputs"] == ["99"]
    assert await is_idle(host.engine)


@pytest.mark.parametrize("moment", [ExecutionStart, Executing])
async def test_a_running_prompt_is_cancelled(
    host: Host, info: dict[str, Any], prefix: str, moment: type[Message]
) -> None:
    """A running prompt is interrupted at the node's next step, with repeated interrupts in case the first is lost."""
    execution = execution_of(host.engine, slow(info, prefix, steps=300))

    def on_message(message: Message) -> None:
        if isinstance(message, moment):
            execution.cancel()

    with pytest.raises(JobCancelled):
        await follow(execution, on_message)
    assert await is_idle(host.engine)


async def test_a_queued_prompt_is_cancelled(host: Host, info: dict[str, Any], prefix: str) -> None:
    """A queued prompt is removed from the queue, and the running prompt is not interrupted."""
    running = execution_of(host.engine, slow(info, prefix, steps=20, color=2))
    started = asyncio.Event()

    task = asyncio.create_task(follow(running, lambda _: started.set()))
    await started.wait()
    waiting = execution_of(host.engine, saved(prefix))
    follower = asyncio.create_task(follow(waiting))
    await asyncio.sleep(0.2)
    waiting.cancel()
    with pytest.raises(JobCancelled):
        await follower
    assert set(outputs(await task)) == {"9999"}


async def test_concurrent_prompts_are_kept_separate(host: Host, info: dict[str, Any], prefix: str) -> None:
    """Each execution receives only its own messages, and both outputs arrive."""
    executions = [execution_of(host.engine, slow(info, f"{prefix}{n}", steps=3, color=n + 3)) for n in range(2)]
    for messages in await asyncio.gather(*(follow(execution) for execution in executions)):
        assert len({getattr(message, "prompt_id", None) for message in messages} - {None}) == 1
        assert set(outputs(messages)) == {"9999"}


async def test_broadcasts_of_foreign_prompts_are_ignored(host: Host, info: dict[str, Any], prefix: str) -> None:
    """Progress that ComfyUI broadcasts for a prompt without a client id reaches no execution."""
    http = ComfyHttp(host.engine.url)
    await http.post_json("/prompt", {"prompt": slow(info, prefix, steps=5, color=9)})
    await http.close()
    execution = execution_of(host.engine, saved(prefix, color=10))
    messages = await follow(execution)
    assert isinstance(messages[0], ExecutionStart)
    assert execution.history is not None
    assert {getattr(message, "prompt_id", None) for message in messages} == {messages[0].prompt_id}


async def test_a_broken_connection_loses_no_output(host: Host, info: dict[str, Any], prefix: str) -> None:
    """The driver reconnects after all connections break during a node, and each output arrives once."""
    graph = slow(info, prefix, steps=10, color=11) | {"2000": save("1", f"{prefix}-early")}
    async with cutting(host.engine.url) as proxy:
        engine = HttpEngine(proxy.url)
        cut_once = iter([proxy.cut])

        def on_message(message: Message) -> None:
            if isinstance(message, Executing):
                next(cut_once, lambda: None)()

        messages = await follow(execution_of(engine, graph), on_message)
        await engine.close()
    assert set(outputs(messages)) == {"2000", "9999"}


async def test_cleaning_removes_the_files_of_a_job(host: Host, prefix: str, tmp_path: Path) -> None:
    """Cleaning removes a local engine's inputs and outputs, and no file that was fetched."""
    found = outputs(await follow(execution_of(host.engine, saved(prefix, color=12))))
    ref, own = only_file(found["2"]), host.engine.files
    remote = HttpEngine(host.engine.url)
    into = remote.files.private_folder()
    copies = [await remote.files.fetch(ref, into), await own.fetch(ref, own.private_folder())]
    with pytest.raises(OutputFailed, match="has more than the 9 bytes that are allowed"):
        await remote.files.fetch(ref, into, max_bytes=9)
    await remote.files.clean()
    assert (await own.fetch(ref, own.private_folder())).exists()
    if host.pid is not None:
        await own.clean()
        with pytest.raises(OutputFailed):
            await own.fetch(ref, own.private_folder())
    assert all(copy.stat().st_size for copy in copies)
    await remote.close()


async def test_a_staged_file_keeps_its_name_over_http(host: Host, tmp_path: Path) -> None:
    """A name that must be quoted in a header is preserved when the file is staged over HTTP."""
    http = ComfyHttp(host.engine.url)
    files = RemoteFiles(http)
    (tmp_path / "file").write_bytes(b"x")
    await files.stage('ä "b" +%22.png', tmp_path / "file")
    status = await http.view('ä "b" +%22.png', "", "input", tmp_path / "back")
    files.close()
    await http.close()
    assert (status, (tmp_path / "back").read_bytes()) == (200, b"x")


async def test_a_refused_file_is_deleted(host: Host, tmp_path: Path) -> None:
    """A file whose name ComfyUI would change is refused, and its local copy is deleted."""
    http = ComfyHttp(host.engine.url)
    files = RemoteFiles(http)
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with pytest.raises(StagingFailed):
        await files.stage("a\nb.png", path)
    assert not path.exists()
    files.close()
    await http.close()
