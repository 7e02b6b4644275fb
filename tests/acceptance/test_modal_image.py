"""The image that a real `modal deploy` requests, with layers ordered from rarely to often changed."""

import re
from pathlib import Path

import httpx
import pytest
from modal_proto import api_pb2 as pb

from infra.image import CUDA_TAGS, TORCH
from infra.nodes import custom_nodes
from infra.on_modal import APP_NAME
from storage.bucket.s3 import S3Config
from tests.plane import Plane
from tests.support.commands import run_command
from tests.support.deployed import BLUE, bucket_settings, deployed
from tests.support.environment import clean_environment
from tests.support.plain_http import NO_TLS

ROOT = Path(__file__).parents[2]
RECIPE = Path(__file__).parent / "recipes" / "default.txt"

STEPS = (
    f"FROM nvidia/cuda:{CUDA_TAGS['cu130']}",
    "ENTRYPOINT []",
    "apt-get install",
    TORCH["cu130"][0],
    "TORCH_CUDA_ARCH_LIST='8.9'",
    "comfy --skip-prompt",
    *(f"fetch -q --depth 1 origin {node.commit}" for node in custom_nodes(ROOT / "infra" / "nodes.toml")),
    "pip install -r /.requirements.txt",
    "infra.check_image",
)


IN_SOAK = pytest.mark.soak("contract/test_snapshot.py::test_an_engine_continues_where_it_finds_a_gpu")
PHASES = {
    "cpu": {"restore", "engine", "warm_up", "announce", "total"},  # the lite engine cannot be restored on a GPU
    "gpu": {"restore", "announce", "total"},
}


@pytest.mark.parametrize("snapshot", [pytest.param("cpu", marks=IN_SOAK), "gpu"])
def test_a_worker_starts_from_a_snapshot(snapshot: str, tmp_path: Path, s3_server: S3Config) -> None:
    """The snapshot setting reaches Modal, its hooks run, and an engine with GPU memory in the snapshot stays warm."""
    settings = bucket_settings(s3_server, f"snapshot-{snapshot}") | {"warm_up": "words"}
    with deployed(tmp_path, settings, COMFYUI_MODAL_SNAPSHOT=snapshot) as app:
        worker = app.plane.deployed(APP_NAME)["ComfyWorker.*"].spec
        assert worker.checkpointing_enabled
        assert ("enable_gpu_snapshot" in worker.experimental_options) == (snapshot == "gpu")
        job = app.ended(app.submit(BLUE))
        assert job["status"] == "completed", app.plane.logs()
        log = app.plane.logs()
    assert '"message": "worker ready"' in log
    phases = re.findall(r'"message": "(engine restored|engine warm)"', log)
    assert phases == (["engine warm", "engine restored"] if snapshot == "gpu" else ["engine warm"])
    assert set(job["timings"]["start"]) == PHASES[snapshot]


def test_the_layers_of_the_workers_image_are_in_order(tmp_path: Path) -> None:
    """The layers follow the order of the steps and equal the recorded recipe, which shows changes in reviews."""
    with Plane(tmp_path) as plane:
        env = clean_environment() | plane.client_env() | {"COMFYUI_MODAL_IMAGE": "comfyui"}
        for command in (["secret", "create", APP_NAME, "COMFYUI_MODAL_BUCKET=b"], ["deploy", "-m", "infra.modal_app"]):
            done = run_command("modal", *command, environment=env)
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert dict(plane.missing) == {}
        images = {image_id: pb.Image.FromString(recipe) for recipe, image_id in plane.state.images.items()}
        worker = plane.deployed(APP_NAME)["ComfyWorker.*"].spec
        # A container imports the app without the files that the recipe was built from.
        assert httpx.get(f"{plane.state.web_url}/api/health", timeout=60, verify=NO_TLS).is_success, plane.logs()
    assert worker.checkpointing_enabled
    assert "enable_gpu_snapshot" not in worker.experimental_options
    layers = []
    image_id = worker.image_id
    while image_id:
        image = images[image_id]
        layers.append("\n".join(image.dockerfile_commands))
        image_id = image.base_images[0].image_id if image.base_images else ""
    layers.reverse()
    positions = [next(n for n, layer in enumerate(layers) if step in layer) for step in STEPS]
    assert positions == sorted(positions), dict(zip(STEPS, positions, strict=True))
    assert len(set(positions)) == len(STEPS)
    assert str(ROOT) not in "".join(layers)
    found = tmp_path / "recipe.txt"
    found.write_text("\n\n".join(layers) + "\n")
    assert found.read_text() == RECIPE.read_text(), f"if this is intended: cp {found} {RECIPE}"
