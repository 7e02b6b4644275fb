"""Commands that are started in another project's folder, whose packages have the names of this project's packages."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.environment import clean_environment
from tests.support.graphs import example
from tests.support.up import finished, up

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "infra", "storage", "tests", "workers", "workflows")
MODULES = ("asyncio", "httpx", "json", "logging", "runpy", "typing")
CONSOLE_SCRIPT = "import sys\nfrom comfyui_modal import main\nsys.exit(main())\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder in which every module ends the process that imports it."""
    folder = tmp_path / "project"
    for name in PACKAGES:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('shadowed: {name}')\n")
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"raise SystemExit('shadowed: {name}')\n")
    return folder


def test_up_runs_a_job_in_another_project(project: Path, tmp_path: Path) -> None:
    """API, workers, engine and probes import this project, with that folder as working directory and in PYTHONPATH."""
    with (
        up(tmp_path / "data", environment={"PYTHONPATH": str(project)}, cwd=project) as running,
        running.client() as client,
    ):
        job_id = client.post("/v1/jobs", json={"workflow": example("words")}).json()["job_id"]
        assert finished(client, job_id)["status"] == "completed", running.logs()


def test_the_console_script_cannot_be_shadowed(project: Path, tmp_path: Path) -> None:
    """The console script imports this project although PYTHONPATH has other packages of these names."""
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert entry == {"comfyui-modal": "comfyui_modal:main"}
    script = tmp_path / "comfyui-modal"
    script.write_text(CONSOLE_SCRIPT)
    path = os.pathsep.join((str(project), str(ROOT)))
    done = subprocess.run(
        [sys.executable, str(script), "workflows", "list", "--data", str(tmp_path / "none")],
        env=clean_environment() | {"PYTHONPATH": path},
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "comfyui-modal up" in done.stderr) == (3, True), done.stderr
