"""A worker with secrets whose engine runs hostile graphs.

`python -m tests.support.captive FOLDER` prints what the graphs obtained as JSON. FOLDER belongs to this process's user,
and the engine's folder lies in it.
"""

import asyncio
import json
import os
import sys
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

import comfyui_modal
from infra.secrecy import keep_secrets
from tests.support.attacks import BREAK_OUT, FIND_LEFTOVERS, LEAVE_BEHIND, code_of
from tests.support.engines import ENVIRONMENT, save
from workers.comfy.engine import FileRef, Prompt
from workers.comfy.execution import Execution, ExecutionPolicy
from workers.comfy.process import EngineProcess
from workers.comfy.spec import EngineFolders, EngineSpec
from workers.errors import OutputFailed
from workers.isolation import IsolationPolicy
from workflows.messages import Executed


async def captive(folder: Path) -> dict[str, Any]:
    neighbour = await asyncio.create_subprocess_exec("sleep", "60")
    terminal = os.openpty()
    try:
        return await _captive(
            folder, _targets(folder) | {"neighbour": neighbour.pid, "terminal": os.ttyname(terminal[1])}
        )
    finally:
        for end in terminal:
            os.close(end)
        neighbour.kill()
        await neighbour.wait()


async def _captive(folder: Path, targets: dict[str, object]) -> dict[str, Any]:
    policy = IsolationPolicy("required", hidden=[folder / "data"])
    folders = EngineFolders(folder / "data" / "engines" / "mine")
    spec = EngineSpec.lite(folders=folders, fault_nodes=True, environment=ENVIRONMENT)
    host = EngineProcess(replace(spec, isolation=policy))
    await host.start()
    targets |= {"private": _private_file(host)}
    try:
        seen = {"isolation": str(host.isolation), "got": await _run(host, code_of(BREAK_OUT, targets))}
        seen["link"] = await _fetched(host, "link.json")
        await host.engine.files.clean()
        left = await _run(host, code_of(LEAVE_BEHIND, {}))
        with tempfile.TemporaryDirectory(dir="/dev/shm") as of_others:
            await host.engine.files.clean()
            seen["file of others"] = Path(of_others).exists()
        seen["left"] = await _run(host, code_of(FIND_LEFTOVERS, left))
        seen["usual"] = await _usual(host, folder)
    finally:
        await host.stop()
    return seen


def _private_file(host: EngineProcess) -> Path:
    """Return a file of another job on its way to or from the engine."""
    path = host.engine.files.private_folder() / "000"
    path.write_text("hush-hush")
    return path


def _targets(folder: Path) -> dict[str, object]:
    data, other = folder / "data", folder / "data" / "engines" / "other"
    for path in (data / "s3", other / "input", other / "output", folder / "models"):
        path.mkdir(parents=True)
    # The modes that `up` sets: without root, only the kernel's refusals protect the folder.
    data.chmod(0o711 if os.geteuid() == 0 else 0o700)
    for path in (data / "s3", other):
        path.chmod(0o700)
    (data / "connection.json").touch(0o600)
    for path in (data / "connection.json", data / "s3" / "volume", other / "input" / "photo.png"):
        path.write_text("hush-hush")
    temporary = Path(tempfile.mkdtemp(dir=folder)) / "medium"
    temporary.write_text("hush-hush")
    return {
        "worker": os.getpid(),
        "connection": data / "connection.json",
        "bucket": data / "s3" / "volume",
        "temporary": temporary,
        "other": other,
        "models": folder / "models",
        "code": comfyui_modal.ROOT,
    }


async def _run(host: EngineProcess, code: str) -> Any:
    graph = {"1": {"class_type": "LiteRunCode", "inputs": {"code": code}}}
    (shown,) = await _executed(host, graph)
    return json.loads(shown["text"][0])


async def _executed(host: EngineProcess, graph: dict[str, Any]) -> list[dict[str, Any]]:
    prompt = Prompt(str(uuid.uuid4()), str(uuid.uuid4()), graph)
    execution = Execution(host.engine, prompt, ExecutionPolicy())
    return [dict(message.output or {}) async for message in execution if isinstance(message, Executed)]


async def _fetched(host: EngineProcess, name: str) -> str:
    try:
        files = host.engine.files
        return (await files.fetch(FileRef(name, "", "output"), files.private_folder())).read_text()
    except OutputFailed:
        return "refused"


async def _usual(host: EngineProcess, folder: Path) -> bool:
    """Return whether an input is read and an output delivered."""
    source = folder / "source.png"
    source.touch(0o600)
    with source.open("wb") as file:
        Image.new("RGB", (8, 8), "red").save(file, "PNG")
    await host.engine.files.stage("pasted/photo.png", source)
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "pasted/photo.png"}}, "2": save("1", "x")}
    shown = await _executed(host, graph)
    (image,) = next(output["images"] for output in shown if output.get("images"))
    ref, files = FileRef(image["filename"], image["subfolder"], image["type"]), host.engine.files
    path = await files.fetch(ref, files.private_folder())
    return path.read_bytes().startswith(b"\x89PNG")


if __name__ == "__main__":
    keep_secrets()
    sys.stdout.write("SEEN" + json.dumps(asyncio.run(captive(Path(sys.argv[1])))))
