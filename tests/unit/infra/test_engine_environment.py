"""The environment variables that a worker passes to ComfyUI."""

import json
import subprocess
import sys
from pathlib import Path

from infra.settings import THREAD_VARIABLES, DeploymentSettings
from tests.support.environment import clean_environment
from workers.isolation import Enclosure, Isolation

ROOT = Path(__file__).parents[3]
PRINT_ENVIRONMENT = "import json; from infra.compose.worker import engine_environment as of; print(json.dumps(of()))"


def test_thread_counts_reach_the_engine_and_secrets_do_not() -> None:
    """The engine gets the thread limits, without which each library starts a thread per core of the host, and no
    secrets."""
    given = dict.fromkeys(THREAD_VARIABLES, "8")
    env = clean_environment() | given | {"COMFYUI_MODAL_BUCKET": "b", "AWS_SECRET_ACCESS_KEY": "s"}
    ended = subprocess.run(
        [sys.executable, "-c", PRINT_ENVIRONMENT], cwd=ROOT, env=env, check=True, capture_output=True, text=True
    )
    found = json.loads(ended.stdout)
    assert given.items() <= found.items()
    assert not [name for name in found if name.startswith(("COMFYUI_MODAL_", "AWS_"))]


def test_a_worker_without_a_gpu_sets_no_thread_limit() -> None:
    """A worker without a GPU requests no cores, so it sets no thread limit."""
    assert DeploymentSettings(worker_cpu=4.5).threads() == dict.fromkeys(THREAD_VARIABLES, "4")
    assert DeploymentSettings(gpu="").threads() == {}


def test_cache_folders_of_libraries_lie_in_the_engines_own_folder(tmp_path: Path) -> None:
    """Caches and settings that libraries write, including those of ultralytics, lie in the engine's own folder."""
    enclosure = Enclosure(Isolation(user=64001), tmp_path, (), (), ())
    environment = enclosure.environment({"PATH": "/bin"})
    own = [name for name, value in environment.items() if value.startswith(str(tmp_path))]
    assert {"HOME", "TMPDIR", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "YOLO_CONFIG_DIR"} <= set(own)
    assert environment["PYTHONNOUSERSITE"] == "1"
