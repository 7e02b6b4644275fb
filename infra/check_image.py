"""Validation of a worker image: `comfyui_modal.py infra.check_image`, the last step of its build.

It starts the engine without a GPU, as a worker does, and reads its node classes. A custom node that did not import, a
shipped workflow that the engine would refuse, or a package whose version differs from the lock fails the build, not a
job on a GPU.
"""

import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.compose.worker import engine_environment
from infra.image import COMFYUI, CONSTRAINTS, ENGINE_PYTHON
from infra.image_lock import by_name, differences, pins, unlocked
from workers.comfy.host import EngineHost
from workers.comfy.process import EngineProcess
from workers.comfy.spec import EngineFolders, EngineSpec
from workers.errors import EngineUnavailable
from workflows.catalogue import Catalogue
from workflows.graph import parse_graph
from workflows.library import shipped

LOG_LINES = 500
LACKING = frozenset({"unknown-node-class", "missing-model"})
"""Faults that `misfits` skips: `missing_classes` reports the classes, and the models are on the volume."""
_IMPORT_FAILED = re.compile(r"\(IMPORT FAILED\):?\s*(?P<path>\S.*)$")


@dataclass(frozen=True, slots=True)
class ImageReport:
    """The engine's `object_info`, and the problems of the image as sentences."""

    object_info: dict[str, Any]
    problems: tuple[str, ...]


async def examine(host: EngineHost, workflows: Mapping[str, Mapping[str, Any]]) -> ImageReport:
    """Start the engine and check `workflows` (name → API format). Raise `EngineUnavailable` if it does not start."""
    await host.start()
    try:
        info = await host.engine.declarations()
        problems = (
            *failed_imports(host.log.tail(LOG_LINES)),
            *missing_classes(workflows, info),
            *misfits(workflows, info),
        )
    finally:
        await host.stop()
    return ImageReport(info, problems)


def failed_imports(log: Iterable[str]) -> list[str]:
    """Find the custom nodes whose import ComfyUI reports as failed in its log."""
    found = (_IMPORT_FAILED.search(line) for line in log)
    return [f"custom node {Path(match['path']).name} does not import" for match in found if match]


def missing_classes(workflows: Mapping[str, Mapping[str, Any]], info: Mapping[str, Any]) -> list[str]:
    """Find the node classes that a workflow uses and the engine lacks."""
    return [
        f"workflow {name} needs the node {missing}"
        for name, graph in workflows.items()
        for missing in sorted({node["class_type"] for node in graph.values()} - info.keys())
    ]


def misfits(workflows: Mapping[str, Mapping[str, Any]], info: Mapping[str, Any]) -> list[str]:
    """Find the faults for which the engine would refuse a workflow, except missing classes and models."""
    catalogue = Catalogue(info)
    return [
        f"workflow {name}: {fault.message}"
        for name, graph in workflows.items()
        for fault in catalogue.check(parse_graph(graph)).faults
        if fault.code not in LACKING
    ]


def shipped_workflows(packs: Collection[str], *, has_models: bool = True) -> dict[str, dict[str, Any]]:
    """Return the shipped workflows that an engine with these packs can run; without models, those that need none."""
    return {
        name: dict(workflow.graph)
        for name, workflow in shipped().items()
        if set(workflow.manifest.nodes) <= set(packs) and (has_models or not workflow.manifest.models)
    }


def packs_of(comfyui: Path) -> set[str]:
    """Return the names of the custom node packs in this installation."""
    folder = comfyui / "custom_nodes"
    return {entry.name for entry in folder.iterdir() if entry.is_dir()} if folder.is_dir() else set()


def installed_packages(python: str) -> dict[str, str]:
    """Return the version of every package in that Python's environment, by normalised name."""
    script = (
        "import importlib.metadata as m, json; "
        "print(json.dumps([(d.metadata['Name'], d.version) for d in m.distributions() if d.metadata['Name']]))"
    )
    listed = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True).stdout
    return by_name((name, version) for name, version in json.loads(listed))


def main(root: Path = Path("/")) -> int:
    """Check the image whose files lie below `root`. Return the exit code."""
    comfyui, python = root / COMFYUI[1:], root / ENGINE_PYTHON[1:]  # without the slash, which would discard `root`
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-check-") as folder:
        folders, environment = EngineFolders(Path(folder)), engine_environment()
        host = EngineProcess(
            EngineSpec.comfyui(comfyui, python=python, folders=folders, cpu=True, environment=environment)
        )
        try:
            report = asyncio.run(examine(host, shipped_workflows(packs_of(comfyui))))
        except EngineUnavailable as error:
            sys.stderr.write(f"{error}\n")
            return 1
    locked = pins((root / CONSTRAINTS[1:]).read_text())
    installed = installed_packages(str(python))
    problems = (*report.problems, *differences(locked, installed))
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    if loose := unlocked(locked, installed):
        sys.stderr.write(f"not in the lock, see `make image-lock`: {', '.join(loose)}\n")
    if problems:
        sys.stderr.write("\n".join(["", "the engine's log:", *host.log.tail(60), ""]))
        return 1
    sys.stdout.write(f"{len(report.object_info)} node classes, {len(installed)} packages, nothing is missing\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
