"""The Python client as a distribution of its own: its wheel, in an environment that has nothing of this project."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import anyio.to_thread
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from comfyui_modal_client import __version__
from tests.support.api_server import KEY, Api, work
from tests.support.environment import clean_environment

pytestmark = pytest.mark.anyio

CLIENT = Path(__file__).parents[2] / "client"
USER = """
import sys
import app
from comfyui_modal_client import Client, __version__

graph = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": app.PREFIX}},
}
url, key = sys.argv[1:]
with Client(url, key) as client:
    job_id = client.submit(graph)["job_id"]
    print(job_id, flush=True)
    print(__version__, client.wait(job_id, timeout_s=60)["status"])
"""
"""A program of a project that has a package `app` of its own."""
OURS = ("app", "comfyui_modal", "infra", "storage", "workers", "workflows")


def built(kind: str, folder: Path) -> Path:
    """Build the distribution as `make client` does, without a network, and return its file."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=CLIENT, check=True, capture_output=True, timeout=120)
    (file,) = folder.iterdir()
    return file


def new_environment(folder: Path) -> Path:
    """Make an environment without any package, and return its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def pip_install(python: Path, *arguments: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--disable-pip-version-check",
        "--quiet",
    ]
    subprocess.run([*command, *arguments], env=clean_environment(), check=True, timeout=300)


def site_packages(python: Path) -> Path:
    (folder,) = python.parents[1].glob("lib/python*/site-packages")
    return folder


def link_requirements(wheel: Path, folder: Path) -> set[str]:
    """Link what the wheel requires, and what that requires, from this environment. Return the names of all packages."""
    (found,) = importlib.metadata.distributions(path=[str(wheel)])
    names, left = set[str](), required_by(found)
    while left:
        name = left.pop()
        names.add(name)
        distribution = importlib.metadata.distribution(name)
        left |= required_by(distribution) - names
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
    return names


def required_by(distribution: importlib.metadata.Distribution) -> set[str]:
    """Return the names of the requirements without extras. Markers of systems and versions of Python are not needed."""
    lines = [line for line in distribution.requires or () if ";" not in line]
    return {name for name in (re.split(r"[^\w.-]", line)[0].lower() for line in lines) if name}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", tmp_path_factory.mktemp("dist"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose packages have the names of this project's packages."""
    folder = tmp_path / "project"
    for name in OURS:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise SystemExit('shadowed')\n")
    (folder / "app" / "__init__.py").write_text("PREFIX = 'of-the-user'\n")
    (folder / "main.py").write_text(USER)
    return folder


async def check_it_runs_a_job(python: Path, project: Path, api: Api) -> None:
    """The project's program submits a job to the running API and waits for it."""
    command = [str(python), "main.py", str(api.client.base_url), KEY]
    async with await anyio.open_process(command, cwd=project, env=clean_environment()) as program:
        assert program.stdout is not None
        lines = BufferedByteReceiveStream(program.stdout)
        job_id = (await lines.receive_until(b"\n", 100)).decode()
        stored = await api.client.get(f"/v1/jobs/{job_id}/workflow")
        assert stored.json()["2"]["inputs"]["filename_prefix"] == "of-the-user"
        await work(api)
        assert (await lines.receive_until(b"\n", 100)).decode().split() == [__version__, "completed"]
    assert program.returncode == 0


async def test_the_wheel_runs_a_job_from_an_empty_environment(
    wheel: Path, project: Path, memory_api: Api, tmp_path: Path
) -> None:
    """Beside a package called `app`, the wheel submits a job and waits for it, with httpx and stamina alone."""
    python = new_environment(tmp_path / "venv")
    await anyio.to_thread.run_sync(pip_install, python, "--no-index", "--no-deps", str(wheel))
    required = link_requirements(wheel, site_packages(python))
    assert {"httpx", "stamina"} < required
    assert required.isdisjoint({"boto3", "pydantic", "rich", "starlette"})
    await check_it_runs_a_job(python, project, memory_api)


@pytest.mark.soak("contract/test_client_package.py::test_the_wheel_runs_a_job_from_an_empty_environment")
async def test_pip_installs_the_wheel_with_its_requirements(
    wheel: Path, project: Path, memory_api: Api, tmp_path: Path
) -> None:
    """pip installs the wheel and what it requires from the package index, and nothing else is needed."""
    python = new_environment(tmp_path / "venv")
    await anyio.to_thread.run_sync(pip_install, python, str(wheel))
    await check_it_runs_a_job(python, project, memory_api)


def test_the_distributions_have_the_client_alone(wheel: Path, tmp_path: Path) -> None:
    """Wheel and source distribution have the package with its types, its licence and its page, and no file of ours."""
    (found,) = importlib.metadata.distributions(path=[str(wheel)])
    files = [str(file) for file in found.files or ()]
    assert {name.partition("/")[0].partition("-")[0] for name in files} == {"comfyui_modal_client"}
    assert "comfyui_modal_client/py.typed" in files
    assert found.metadata["Name"] == "comfyui-modal-client"
    assert sorted(re.split(r"[>=]", line)[0] for line in found.requires or ()) == ["httpx", "stamina"]
    assert "comfyui_modal_client" in (found.read_text("METADATA") or "")
    with tarfile.open(built("sdist", tmp_path)) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "src/comfyui_modal_client/py.typed"} <= names
    assert not any(name.startswith(OURS) for name in names)


def test_the_launcher_puts_the_client_of_its_own_checkout_first(tmp_path: Path) -> None:
    """Our processes import the client from the folder of the launcher, whatever is installed."""
    shutil.copy(CLIENT.parent / "comfyui_modal.py", tmp_path)
    shutil.copytree(CLIENT / "src", tmp_path / "client" / "src")
    (tmp_path / "which.py").write_text("import comfyui_modal_client\nprint(comfyui_modal_client.__file__)\n")
    command = [sys.executable, "-I", str(tmp_path / "comfyui_modal.py"), "which"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True, timeout=60)
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)
