"""The lock of the image: its sources, the pip lines that it constrains, and its comparison with installed packages."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from infra import image
from infra.check_image import installed_packages
from infra.image_lock import differences, full_lock, pins, recorded_sources, torch_lock, unlocked, with_header
from infra.make_image_lock import SourceMissing, all_requirements, requirements_of
from infra.nodes import CustomNode, custom_nodes
from infra.settings import DeploymentSettings
from tests.support.environment import clean_environment

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "tests" / "acceptance" / "recipes" / "default.txt"
CUDAS = get_args(image.Cuda)
NODE = CustomNode(name="N", repository="https://example.com/N", commit="a" * 40, requirements=("x==1",))


@pytest.mark.parametrize("cuda", CUDAS)
def test_the_lock_matches_the_sources_of_the_image(cuda: image.Cuda) -> None:
    """The committed locks record the sources that the image is built from; a changed source needs `make image-lock`."""
    defaults = DeploymentSettings.model_fields
    sources = image.lock_sources(
        cuda=cuda,
        comfyui_version=defaults["comfyui_version"].default,
        nodes=custom_nodes(ROOT / defaults["nodes"].default),
    )
    assert recorded_sources((ROOT / full_lock(cuda)).read_text()) == list(sources)
    assert recorded_sources((ROOT / torch_lock(cuda)).read_text()) == [sources[0]]


@pytest.mark.parametrize("cuda", CUDAS)
def test_both_locks_agree(cuda: str) -> None:
    """The full lock contains the pins of the torch lock, and neither lock names a package index."""
    first, everything = (ROOT / torch_lock(cuda)).read_text(), (ROOT / full_lock(cuda)).read_text()
    assert pins(first).items() <= pins(everything).items()
    assert {"torch", "numpy", "transformers", "comfy-cli", "opencv-python"} <= pins(everything).keys()
    assert "://" not in first + everything


@pytest.mark.parametrize("cuda", CUDAS)
def test_packages_that_share_their_files_have_one_version(cuda: str) -> None:
    """All OpenCV packages have one version, because each of them installs the module cv2."""
    locked = pins((ROOT / full_lock(cuda)).read_text())
    assert len({version for name, version in locked.items() if name.startswith("opencv-")}) == 1


def test_every_pip_command_of_the_engine_is_constrained_by_a_lock() -> None:
    """Every pip command of the recipe is constrained by a lock."""
    lines = [line for line in RECIPE.read_text().splitlines() if f"{image.VENV}/bin/" in line]
    installing = [line for line in lines if re.search(r"pip install| comfy install|--nvidia", line)]
    assert len(installing) > 8
    for line in installing:
        constrained = line.count(f"-c {image.CONSTRAINTS}") + line.count(f"-c {image.TORCH_CONSTRAINTS}")
        assert constrained == line.count("pip install") or f"PIP_CONSTRAINT={image.CONSTRAINTS}" in line, line


def test_installed_packages_are_compared_with_the_lock() -> None:
    """Packages are compared by normalised name; omitted packages and local version suffixes are no differences."""
    locked = pins("# a comment\nA-b==1.0\ntorch==2.11.0\nleft.out==3\n")
    installed = {"a-b": "1.1", "torch": "2.11.0+cu130", "more": "5", "pip": "26"}
    assert differences(locked, installed) == ["a-b 1.1 is installed, the lock says 1.0"]
    assert unlocked(locked, installed) == ["more==5"]
    assert differences(locked, {"a-b": "1.0"}) == []


def test_installed_packages_are_listed_by_normalised_name() -> None:
    found = installed_packages(sys.executable)
    assert found["pydantic-settings"] == importlib.metadata.version("pydantic_settings")


def test_a_header_round_trips() -> None:
    assert recorded_sources(with_header(["a 1", "b 2"], "x==1")) == ["a 1", "b 2"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit, a requirements.txt and a tag."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "requirements.txt").write_text("einops\n")
    git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@localhost"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    return folder


def test_requirements_are_read_from_the_repository(repository: Path) -> None:
    """Requirements are read at a commit or a tag without a checkout; a file that does not exist is empty."""
    head = ["git", "-C", str(repository), "rev-parse", "HEAD"]
    commit = subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()
    assert requirements_of(str(repository), commit, "requirements.txt", None) == "einops\n"
    assert requirements_of(str(repository), "refs/tags/v1", "other.txt", None) == ""
    with pytest.raises(SourceMissing, match="has no"):
        requirements_of(str(repository), "0" * 40, "requirements.txt", None)


def test_make_image_lock_without_uv_names_the_package_to_install(tmp_path: Path) -> None:
    """Without uv, `make image-lock` fails and names the package to install."""
    command = [sys.executable, "-m", "infra.make_image_lock"]
    env = clean_environment() | {"PATH": str(tmp_path)}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "uv is needed: pip install uv\n")


def test_requirements_are_read_from_local_copies(tmp_path: Path) -> None:
    """Requirements are read from local copies together with those of the manifest; a missing copy is named."""
    for name in ("ComfyUI", "N"):
        (tmp_path / name).mkdir()
    (tmp_path / "ComfyUI" / "requirements.txt").write_text("torch\n")
    (tmp_path / "N" / "requirements.txt").write_text("numpy<3\n")
    assert all_requirements("1", [NODE], tmp_path) == ["torch\n", "numpy<3\n", "x==1"]
    without_file = NODE.model_copy(update={"requirements_file": ""})
    assert all_requirements("1", [without_file], tmp_path) == ["torch\n", "x==1"]
    with pytest.raises(SourceMissing, match="Other"):
        all_requirements("1", [NODE.model_copy(update={"repository": "https://example.com/Other"})], tmp_path)
