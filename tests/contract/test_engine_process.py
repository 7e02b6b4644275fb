"""The engine's process: it starts or explains why not, ends with its parent, and is replaced when it dies."""

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.support.engines import ENVIRONMENT, LITE, EngineChoice, blank, engine_choices, save, saved, slow
from tests.support.graphs import chain
from workers.comfy.engine import Prompt
from workers.comfy.execution import Execution, ExecutionPolicy
from workers.comfy.files import RemoteFiles
from workers.comfy.host import RunningEngine
from workers.comfy.http import ComfyHttp, socket_of
from workers.comfy.process import EngineProcess
from workers.comfy.spec import EngineFolders, EngineSpec
from workers.errors import (
    EngineMisconfigured,
    EngineStalled,
    EngineUnavailable,
    NodeFailed,
    OutOfMemory,
    StagingFailed,
    WorkerError,
)
from workers.supervise import SOCKET_VARIABLE

pytestmark = pytest.mark.anyio

LONG_S = 60.0
LOCAL_CHOICES = [choice for choice in engine_choices() if choice.settings.comfyui_url is None]


@pytest.fixture
async def lite(tmp_path: Path) -> AsyncIterator[EngineProcess]:
    host = EngineProcess(LITE.spec(tmp_path))
    await host.start()
    yield host
    await host.stop()


def script(tmp_path: Path, code: str, *, start_timeout_s: float = LONG_S) -> EngineSpec:
    """An engine that consists only of this Python program."""
    command = [sys.executable, "-c", code]
    return EngineSpec(command, tmp_path, EngineFolders(tmp_path), ENVIRONMENT, start_timeout_s)


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


async def are_gone(processes: list[psutil.Process]) -> bool:
    """Waits until all processes have ended; a zombie counts as ended."""
    for _ in range(200):
        running = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not running:
            return True
        await asyncio.sleep(0.05)
    return False


async def logs(host: EngineProcess, line: str) -> bool:
    for _ in range(200):
        if line in host.log.tail(50):
            return True
        await asyncio.sleep(0.02)
    return False


async def follow(execution: Execution, on_message: Callable[[], None] = lambda: None) -> None:
    """Follows the execution to its end and calls `on_message` at each message."""
    async with asyncio.timeout(LONG_S):
        async for _ in execution:
            on_message()


def execution_of(host: EngineProcess, graph: dict[str, object], policy: ExecutionPolicy | None = None) -> Execution:
    return Execution(host.engine, Prompt(str(uuid.uuid4()), str(uuid.uuid4()), graph), policy)


@pytest.mark.parametrize("choice", LOCAL_CHOICES, ids=lambda c: c.name)
async def test_an_engine_starts_restarts_and_stops(choice: EngineChoice, tmp_path: Path) -> None:
    """A started engine runs prompts and keeps its log, and no process is left after a restart or a stop."""
    host = EngineProcess(choice.spec(tmp_path))
    await host.start()
    try:
        assert host.pid is not None
        first = family(host.pid)
        assert len(first) >= 2
        assert host.log.tail(50)
        await follow(execution_of(host, saved("x")))
        await host.restart()
        assert await are_gone(first)
        assert host.pid is not None
        second = family(host.pid)
        await follow(execution_of(host, saved("x")))
    finally:
        await host.stop()
    assert await are_gone(second)
    assert not host.is_alive()
    assert host.pid is None
    await host.stop()


async def test_an_engine_that_exits_during_its_start_is_unavailable(tmp_path: Path) -> None:
    """The error of an engine that exits during its start contains its last output."""
    host = EngineProcess(script(tmp_path, "import sys; print('no such torch'); sys.exit(3)"))
    with pytest.raises(EngineUnavailable, match="no such torch"):
        await host.start()
    assert not host.is_alive()


async def test_an_engine_that_never_gets_ready_is_stopped(tmp_path: Path) -> None:
    """An engine that is not ready in time is stopped, although it ignores SIGTERM."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('loading', flush=True)\n"
    host = EngineProcess(script(tmp_path, code + "while True: time.sleep(1)", start_timeout_s=3.0))
    starting = asyncio.create_task(host.start())
    assert await logs(host, "loading")
    assert host.pid is not None
    processes = family(host.pid)
    with pytest.raises(EngineUnavailable, match="not ready within 3 s"):
        await starting
    assert await are_gone(processes)


@pytest.mark.parametrize("cwd", ["missing", "file"])
async def test_a_wrong_working_folder_is_an_error(tmp_path: Path, cwd: str) -> None:
    """An engine whose working folder is missing or is a file is unavailable, and the message names the path."""
    (tmp_path / "file").touch()
    host = EngineProcess(replace(LITE.spec(tmp_path / "engine"), cwd=tmp_path / cwd))
    with pytest.raises(EngineUnavailable, match=cwd):
        await host.start()
    await host.stop()


@pytest.mark.parametrize("choice", LOCAL_CHOICES, ids=lambda c: c.name)
async def test_only_its_worker_can_reach_the_engine(choice: EngineChoice, tmp_path: Path) -> None:
    """An engine has no listening port; its socket's folder is private and is removed at its end."""
    host = EngineProcess(choice.spec(tmp_path))
    await host.start()
    try:
        assert host.pid is not None
        listening = [c for p in family(host.pid) for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert listening == []
        path = socket_of(host.url)
        assert path is not None
        assert Path(path).parent.stat().st_mode & 0o777 == 0o700
        if sys.platform == "linux":
            assert Path(path).parent.name not in Path("/proc/net/unix").read_text()
    finally:
        await host.stop()
    assert not Path(path).parent.exists()


async def test_a_comfyui_without_the_custom_node_does_not_start(tmp_path: Path) -> None:
    """A ComfyUI that did not load the custom node, and would listen on TCP, is a configuration error."""
    for choice in (choice for choice in LOCAL_CHOICES if choice is not LITE):
        spec = choice.spec(tmp_path)
        host = EngineProcess(replace(spec, command=[*spec.command, "--disable-all-custom-nodes"]))
        with pytest.raises(EngineMisconfigured, match="did not load our custom node"):
            await host.start()


async def test_an_engine_that_listens_elsewhere_is_not_ready(tmp_path: Path) -> None:
    """An engine that serves without the socket never counts as started."""
    code = "import http.server; http.server.HTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler)"
    host = EngineProcess(script(tmp_path, f"{code}.serve_forever()", start_timeout_s=2.0))
    with pytest.raises(EngineUnavailable, match="not ready"):
        await host.start()


async def test_the_engine_gets_only_its_own_environment(tmp_path: Path) -> None:
    """An engine gets only its configured environment, with its own home and caches and no variable of this process."""
    host = EngineProcess(script(tmp_path, "import os, sys; print('env:', ' '.join(sorted(os.environ))); sys.exit(1)"))
    with pytest.raises(EngineUnavailable) as caught:
        await host.start()
    (line,) = [line for line in caught.value.message.splitlines() if line.startswith("env:")]
    assert set(line.split()[1:]) <= {
        *host.enclosure.environment(ENVIRONMENT),
        SOCKET_VARIABLE,
        "LC_CTYPE",
    }  # Python itself sets LC_CTYPE in the C locale


async def test_a_progress_bar_does_not_fill_the_log(tmp_path: Path) -> None:
    """Only the last state of an overwritten line is logged, and a very long line is cut."""
    code = "import sys; print('1%\\r50%\\r100%'); print('x' * 200_000); print('last'); sys.exit(1)"
    host = EngineProcess(script(tmp_path, code))
    with pytest.raises(EngineUnavailable):
        await host.start()
    assert host.log.tail(50)[0] == "100%"
    assert host.log.tail(1) == ["last"]
    assert all(len(line) <= 4000 for line in host.log.tail(50))


async def test_a_killed_engine_is_detected_and_replaced(lite: EngineProcess) -> None:
    """A job whose engine is killed fails with the engine's error, and a new engine serves the next job."""
    info = await lite.engine.object_info()
    runs = asyncio.Event()
    following = asyncio.create_task(follow(execution_of(lite, slow(info, "x", steps=300)), runs.set))
    assert lite.pid is not None
    processes = family(lite.pid)
    await runs.wait()
    for process in processes:
        process.kill()
    with pytest.raises(EngineUnavailable):
        await following
    await lite.restart()
    await follow(execution_of(lite, saved("x")))


@pytest.mark.parametrize(
    ("kind", "error"), [("runtime", NodeFailed), ("oom", OutOfMemory), ("crash", EngineUnavailable)]
)
async def test_failing_nodes_are_distinguished(lite: EngineProcess, kind: str, error: type[WorkerError]) -> None:
    """An exception, a lack of memory and a crash of the engine in a node give different errors."""
    assert lite.pid is not None
    processes = family(lite.pid)
    raising = {"class_type": "LiteRaise", "inputs": {"image": ["1", 0], "kind": kind}}
    with pytest.raises(error):
        await follow(execution_of(lite, {"1": blank(), "2": raising, "3": save("2", "x")}))
    if kind == "crash":
        assert await are_gone(processes)
    else:
        await follow(execution_of(lite, saved("x")))


async def test_a_node_that_ignores_interrupts_stalls_the_engine(lite: EngineProcess) -> None:
    """An engine counts as stalled after the grace period, and it can be replaced."""
    hanging = {"class_type": "LiteHang", "inputs": {"image": ["1", 0], "seconds": LONG_S}}
    policy = ExecutionPolicy(interrupt_every_s=0.05, interrupt_grace_s=0.5)
    execution = execution_of(lite, {"1": blank(), "2": hanging, "3": save("2", "x")}, policy)

    with pytest.raises(EngineStalled):
        await follow(execution, execution.cancel)
    await lite.restart()
    await follow(execution_of(lite, saved("x")))


async def test_a_chain_of_two_thousand_nodes_is_accepted(lite: EngineProcess) -> None:
    """The lite engine accepts a graph as large as the API allows."""
    http = ComfyHttp(lite.url)
    status, answer = await http.post_json("/prompt", {"prompt": chain(2_000)})
    assert (status, answer["node_errors"]) == (200, {})
    await http.close()


async def test_a_file_above_the_servers_limit_is_an_error(tmp_path: Path) -> None:
    """A file above the server's upload limit gives an error that names the flag, and its local copy is deleted."""
    spec = LITE.spec(tmp_path / "engine")
    host = EngineProcess(replace(spec, command=[*spec.command, "--max-upload-size=1"]))
    await host.start()
    http = ComfyHttp(host.engine.url)
    files = RemoteFiles(http)
    path = tmp_path / "large"
    path.write_bytes(bytes(8 * 1024 * 1024))
    try:
        with pytest.raises(StagingFailed, match="--max-upload-size"):
            await files.stage("large.bin", path)
        assert not path.exists()
    finally:
        files.close()
        await http.close()
        await host.stop()


async def test_the_engine_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """The engine and its socket are gone after its parent was killed with SIGKILL."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.keep_engine",
        str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert parent.stdout is not None
    try:
        async with asyncio.timeout(LONG_S):
            report = json.loads(await parent.stdout.readline())
        processes = family(int(report["pid"]))
        assert len(processes) == 2
    finally:
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
    assert await are_gone(processes)
    assert not Path(str(socket_of(report["url"]))).parent.exists()


async def test_the_engine_does_not_outlive_its_supervisor(lite: EngineProcess) -> None:
    """The engine ends when its supervisor is killed with SIGKILL."""
    assert lite.pid is not None
    _, engine = family(lite.pid)
    os.kill(lite.pid, signal.SIGKILL)
    assert await are_gone([engine])


async def test_a_running_server_is_used(lite: EngineProcess) -> None:
    """A running server is used and never stopped or cleaned, and a URL without a server is an unavailable engine."""
    running = RunningEngine(lite.engine.url)
    await running.start()
    assert running.is_alive()
    await running.engine.files.clean()
    await running.restart()
    await running.stop()
    assert lite.is_alive()
    absent = RunningEngine("http://127.0.0.1:9")
    with pytest.raises(EngineUnavailable):
        await absent.start()
    await absent.stop()


async def test_the_supervisor_has_its_own_process_group(lite: EngineProcess) -> None:
    """A signal to this process's group, such as Ctrl-C, does not reach the engine first."""
    assert lite.pid is not None
    assert os.getpgid(lite.pid) == lite.pid != os.getpgrp()
