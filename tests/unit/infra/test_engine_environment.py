"""What ComfyUI may know of its worker's environment."""

import json
import subprocess
import sys
from pathlib import Path

from infra.settings import THREAD_VARIABLES, DeploymentSettings
from tests.support.environment import clean_environment
from workers.isolation import Enclosure, Isolation

ROOT = Path(__file__).parents[3]
TELL = "import json; from infra.compose.worker import engine_environment as of; print(json.dumps(of()))"


def test_thread_counts_reach_the_engine_and_secrets_do_not() -> None:
    """A container sees all cores of its machine: without a number, each library starts a thread for every one."""
    given = dict.fromkeys(THREAD_VARIABLES, "8")
    env = clean_environment() | given | {"COMFYUI_MODAL_BUCKET": "b", "AWS_SECRET_ACCESS_KEY": "s"}
    told = subprocess.run([sys.executable, "-c", TELL], cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    found = json.loads(told.stdout)
    assert given.items() <= found.items()
    assert not [name for name in found if name.startswith(("COMFYUI_MODAL_", "AWS_"))]


def test_a_worker_without_a_gpu_leaves_the_threads_alone() -> None:
    """It asks for no cores, so their number says nothing."""
    assert DeploymentSettings(worker_cpu=4.5).threads() == dict.fromkeys(THREAD_VARIABLES, "4")
    assert DeploymentSettings(gpu="").threads() == {}


def test_what_libraries_write_for_themselves_goes_into_the_engines_own_folder(tmp_path: Path) -> None:
    """Also the settings of ultralytics, which it would otherwise write below /tmp, and not import where it cannot."""
    enclosure = Enclosure(Isolation(user=64001), tmp_path, (), (), ())
    environment = enclosure.environment({"PATH": "/bin"})
    own = [name for name, value in environment.items() if value.startswith(str(tmp_path))]
    assert {"HOME", "TMPDIR", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "YOLO_CONFIG_DIR"} <= set(own)
