"""`make replay-image` runs every RUN line of the image's recipe on this machine, and then the resulting engine.

It works in its own folder, with rewritten paths, and takes about 9 GB and 8 minutes. It needs Python 3.12, and git or,
with --sources, copies of the repositories (FOLDER/<name of the repository>). SageAttention is not compiled. The last
RUN line checks the image. After it the shipped workflows are posted to the engine, with empty files for models, and an
engine is prepared for a CPU snapshot. --write-types updates the unit tests' declarations of these workflows' nodes.
"""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from infra.check_image import packs_of, shipped_workflows
from infra.compose.worker import engine_environment
from infra.image import COMFYUI, CONSTRAINTS, ENGINE_PYTHON, MODELS, TORCH_CONSTRAINTS
from infra.image_lock import full_lock, torch_lock
from tests.replay.node_types import FIXTURE, node_types
from tests.replay.recipe import ROOT, steps
from workers.comfy.engine import Prompt
from workers.comfy.process import EngineProcess
from workers.comfy.snapshot import SnapshotHost
from workers.comfy.spec import EngineFolders, EngineSpec
from workers.errors import PromptRefused
from workflows.library import shipped

START_TIMEOUT_S = 600.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description=__doc__)
    parser.add_argument("--into", type=Path, required=True, help="a folder that is made for this")
    parser.add_argument("--sources", type=Path, help="copies of the repositories; fetched by git otherwise")
    parser.add_argument("--python", default="python3.12", help="a Python 3.12")
    parser.add_argument("--only-engine", action="store_true", help="the recipe has run in that folder already")
    parser.add_argument("--write-types", action="store_true", help="write tests/unit/workflows/node_types.json anew")
    options = parser.parse_args()
    into = options.into.resolve()
    if not options.only_engine:
        into.mkdir(parents=True)
        if not replayed(into, options.python, options.sources and options.sources.resolve()):
            return 1
    return 0 if asyncio.run(tried(into, write_types=options.write_types)) else 1


def replayed(into: Path, python: str, sources: Path | None) -> bool:
    """Return whether every command succeeded."""
    (into / "opt").mkdir()
    shutil.copy(ROOT / torch_lock("cu130"), into / TORCH_CONSTRAINTS[1:])
    shutil.copy(ROOT / full_lock("cu130"), into / CONSTRAINTS[1:])
    subprocess.run([python, "-m", "venv", str(into / "python")], check=True)
    with _repositories(into, sources) as environment:
        for step in steps(into, python, sources):
            say(f"RUN {step.line[:200]}")
            if step.note:
                say(f"    {'left out' if step.command is None else 'changed'}: {step.note}")
            if step.command is None:
                continue
            began = time.monotonic()
            ended = subprocess.run(
                ["/bin/bash", "-c", step.command], env=environment, capture_output=True, text=True, check=False
            )
            say(f"    ended with {ended.returncode} after {time.monotonic() - began:.0f} s")
            if ended.returncode != 0:
                say(ended.stdout[-2000:] + ended.stderr[-6000:])
                return False
            if "check_image" in step.line:
                say(f"    {ended.stdout.strip()} {ended.stderr.strip()}")
    return True


async def tried(into: Path, *, write_types: bool) -> bool:
    """Return whether the engine accepts every shipped workflow and is prepared for a snapshot."""
    comfyui = into / COMFYUI[1:]
    graphs = shipped_workflows(packs_of(comfyui))
    if write_types:
        await _write_types(into)
    for model in {model for name in graphs for model in shipped()[name].manifest.models}:
        path = into / MODELS[1:] / model
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        spec = _spec(into, Path(folder) / "engine")
        accepted = await _posted(EngineProcess(spec), spec.folders, graphs)
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        engine_dir = Path(folder) / "engine"
        host = SnapshotHost(lambda: _spec(into, engine_dir), is_on_gpu=False)
        began = time.monotonic()
        await host.prepare()
        prepared = host.is_alive()
        say(
            f"CPU snapshot: the engine is {'ready' if prepared else 'not ready'} after {time.monotonic() - began:.0f} s"
        )
        began = time.monotonic()
        await host.start()
        goes_on = host.is_alive()
        say(f"after the restore, without a GPU: a fresh engine after {time.monotonic() - began:.0f} s")
        await host.stop()
    return accepted and prepared and goes_on


async def _write_types(into: Path) -> None:
    """Write the declarations without any models, so that model names are not among the choices."""
    shutil.rmtree(into / MODELS[1:], ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        host = EngineProcess(_spec(into, Path(folder) / "engine"))
        await host.start()
        try:
            FIXTURE.write_text(node_types(await host.engine.declarations()))
        finally:
            await host.stop()
    say(f"{FIXTURE.name} is written: {FIXTURE.stat().st_size} bytes")


async def _posted(host: EngineProcess, folders: EngineFolders, graphs: dict[str, dict[str, Any]]) -> bool:
    await host.start()
    good = True
    try:
        for name, graph in graphs.items():
            for node in graph.values():
                if node["class_type"] == "LoadImage":
                    Image.new("RGB", (64, 64)).save(folders.input / node["inputs"]["image"])
            prompt = Prompt(str(uuid.uuid4()), str(uuid.uuid4()), graph, is_strict=True)
            try:
                await host.engine.submit(prompt)
                say(f"/prompt accepts {name}")
                await host.engine.interrupt(prompt.prompt_id)
            except PromptRefused as refused:
                good = False
                say(f"/prompt refuses {name}: {refused}")
    finally:
        await host.stop()
    return good


def _spec(into: Path, folder: Path) -> EngineSpec:
    return EngineSpec.comfyui(
        into / COMFYUI[1:],
        python=into / ENGINE_PYTHON[1:],
        folders=EngineFolders(folder),
        cpu=True,
        environment=engine_environment(),
        start_timeout_s=START_TIMEOUT_S,
    )


@contextmanager
def _repositories(into: Path, sources: Path | None) -> Iterator[dict[str, str]]:
    """Yield the environment of the RUN lines, with which git gives comfy-cli the local copy of ComfyUI."""
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    environment |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "PYENV_"))}
    if sources is None:
        yield environment
        return
    repository = into / "ComfyUI.git-copy"
    shutil.copytree(sources / "ComfyUI", repository)
    version = next(step.line for step in steps(into, "python", sources) if " install --nvidia " in step.line)
    tag = "v" + version.partition("--version ")[2].split()[0]
    git = ["git", "-C", str(repository), "-c", "user.name=replay", "-c", "user.email=replay@localhost"]
    for command in (["init", "-q"], ["add", "-A", "-f"], ["commit", "-q", "-m", tag], ["tag", tag]):
        subprocess.run([*git, *command], check=True)
    settings = {f"url.file://{repository}.insteadOf": "https://github.com/comfyanonymous/ComfyUI"}
    settings |= {f"url.file://{repository}/.insteadOf": "https://github.com/Comfy-Org/ComfyUI"}
    environment["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (name, value) in enumerate(settings.items()):
        environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    yield environment


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
