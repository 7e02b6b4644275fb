"""The Dockerfile and compose.yaml, read and carried out without a container daemon."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
WORKDIR = "/srv/comfyui-modal"


def copied_into(folder: Path) -> Path:
    """Copy what the image holds, and nothing else, into the folder. Return the folder."""
    for line in _instructions("COPY"):
        *sources, target = line.split()
        for source in map(ROOT.joinpath, sources):
            if source.is_dir():
                shutil.copytree(source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (folder / target).mkdir(exist_ok=True)
                shutil.copy(source, folder / target)
    return folder


def entrypoint(image: Path) -> list[str]:
    """Return the image's entry point for a copy of the image in `image`, with this Python."""
    (line,) = _instructions("ENTRYPOINT")
    python, *arguments = json.loads(line)
    assert python == "python"
    return [sys.executable, *(argument.replace(WORKDIR, str(image)) for argument in arguments)]


def default_command() -> list[str]:
    """Return the arguments of a container that is started without any."""
    (line,) = _instructions("CMD")
    command: list[str] = json.loads(line)
    return command


def services() -> dict[str, dict[str, Any]]:
    """Return the services of compose.yaml."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return found


def _instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", DOCKERFILE.read_text(), re.MULTILINE)
