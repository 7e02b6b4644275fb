"""`make image-lock`: resolves the Python packages of the image and writes its lock.

It reads the requirements of ComfyUI and of the manifest's custom nodes at the commits of the image: from their git
repositories or, if IMAGE_SOURCES names a folder, from copies in FOLDER/<name of the repository>. Locked versions are
kept where they satisfy the requirements; `--upgrade` takes the newest. It needs uv.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from infra import image
from infra.image_lock import full_lock, pins, torch_lock, with_header
from infra.nodes import CustomNode, custom_nodes
from infra.settings import DeploymentSettings

COMFYUI_REPOSITORY = "https://github.com/Comfy-Org/ComfyUI"
PLATFORM = "x86_64-manylinux_2_35"
"""The platform of the base image, by the glibc of Ubuntu 22.04."""


class SourceMissing(Exception):
    """A repository or its copy lacks a file or commit. The message names it."""


class Unresolvable(Exception):
    """No set of versions satisfies all requirements."""


def requirements_of(repository: str, reference: str, file: str, copy: Path | None) -> str:
    """Read a file of a repository from a local copy, or fetch only this commit or tag."""
    if copy is not None:
        path = copy / file
        if not copy.is_dir():
            raise SourceMissing(f"{copy} is not there, for {repository}")
        return path.read_text() if path.is_file() else ""
    with tempfile.TemporaryDirectory(prefix="image-lock-") as folder:
        git = ["git", "-C", folder]
        subprocess.run([*git, "init", "-q"], check=True)
        fetched = subprocess.run([*git, "fetch", "-q", "--depth", "1", repository, reference], check=False)
        if fetched.returncode != 0:
            raise SourceMissing(f"{repository} has no {reference}, or cannot be reached")
        shown = subprocess.run([*git, "ls-tree", "--name-only", "FETCH_HEAD", file], capture_output=True, check=True)
        if not shown.stdout:
            return ""
        return subprocess.run([*git, "show", f"FETCH_HEAD:{file}"], capture_output=True, text=True, check=True).stdout


def all_requirements(version: str, nodes: Sequence[CustomNode], copies: Path | None) -> list[str]:
    """Read the requirements of ComfyUI and of the custom nodes, one text each."""
    found = [_of(COMFYUI_REPOSITORY, f"refs/tags/v{version}", "requirements.txt", copies)]
    for node in nodes:
        if node.requirements_file:
            found.append(_of(node.repository, node.commit, node.requirements_file, copies))
        found.append("\n".join(node.requirements))
    return found


def resolve(wanted: Sequence[str], lock: Path, *, within: Path | None = None, upgrade: bool = False) -> str:
    """Resolve the requirements into pins of all packages. `within` is a lock whose pins apply too."""
    with tempfile.TemporaryDirectory(prefix="image-lock-") as folder:
        source, result = Path(folder) / "wanted.in", Path(folder) / "pins.txt"
        source.write_text("\n".join(wanted) + "\n")
        if lock.exists():
            result.write_text(lock.read_text())  # uv keeps the versions in an existing output file
        command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--no-emit-index-url"]
        command += ["--python-version", image.PYTHON, "--python-platform", PLATFORM, str(source), "-o", str(result)]
        command += ["--upgrade"] if upgrade else []
        command += ["-c", str(within)] if within is not None else []
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            raise Unresolvable(f"no versions fit for {lock}: uv says above which requirements exclude each other")
        return result.read_text()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true")
    arguments = parser.parse_args()
    deployment = DeploymentSettings()
    nodes, version = custom_nodes(deployment.nodes), deployment.comfyui_version
    copies = os.environ.get("IMAGE_SOURCES")
    if shutil.which("uv") is None:
        sys.stderr.write("uv is needed: pip install uv\n")
        return 1
    try:
        wanted = all_requirements(version, nodes, Path(copies) if copies else None)
        for cuda in get_args(image.Cuda):
            sources = image.lock_sources(cuda=cuda, comfyui_version=version, nodes=nodes)
            _write(cuda, sources, wanted, upgrade=arguments.upgrade)
    except (SourceMissing, Unresolvable) as fault:
        sys.stderr.write(f"{fault}\n")
        return 1
    return 0


def _write(cuda: image.Cuda, sources: Sequence[str], wanted: Sequence[str], *, upgrade: bool) -> None:
    first = [*image.TORCH[cuda], *image.SAGE_BUILD_TOOLS]
    torch, full = torch_lock(cuda), full_lock(cuda)
    torch.write_text(with_header(sources[:1], resolve(first, torch, upgrade=upgrade)))
    everything = [*first, image.COMFY_CLI, *wanted]
    # Within torch's pins, because the image installs torch first and by that lock alone.
    full.write_text(with_header(sources, resolve(everything, full, within=torch, upgrade=upgrade)))
    sys.stdout.write(f"{full}: {len(pins(full.read_text()))} packages\n")


def _of(repository: str, reference: str, file: str, copies: Path | None) -> str:
    return requirements_of(
        repository, reference, file, None if copies is None else copies / repository.rpartition("/")[2]
    )


if __name__ == "__main__":
    sys.exit(main())
