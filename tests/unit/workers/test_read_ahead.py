"""Model files that are read while an engine starts: which ones, and how many."""

import json
from pathlib import Path
from typing import Any

import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.jobs.models import Input
from tests.support.shop import Shop
from workers.read_ahead import ReadAhead, expected_values, free_memory, graph_values, model_files

pytestmark = pytest.mark.anyio

GRAPH: dict[str, Any] = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "wan/high.safetensors", "weight_dtype": "default"}},
    "2": {"class_type": "VAELoader", "inputs": {"vae_name": "vae.safetensors", "model": ["1", 0]}},
    "3": "no node",
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two kinds of models in a folder like ComfyUI's `models`."""
    folder = tmp_path / "models"
    for name, size in (("diffusion_models/wan/high.safetensors", 3000), ("vae/vae.safetensors", 100)):
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * size)
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    return folder


def test_model_files_of_a_graph_are_found(models: Path) -> None:
    """Values of a graph that name files below a model folder are found once each, and paths outside are ignored."""
    found = model_files([*graph_values(GRAPH), "vae.safetensors", "default", 7], [models, models / "none"])
    assert found == {
        models / "diffusion_models" / "wan" / "high.safetensors": 3000,
        models / "vae" / "vae.safetensors": 100,
    }
    outside = ["../secret.safetensors", "../../secret.safetensors", str(models.parent / "secret.safetensors")]
    assert model_files(outside, [models]) == {}


async def test_files_are_read_within_the_memory_limit(models: Path) -> None:
    """A file that exceeds the remaining memory is skipped, and a smaller one after it is read."""
    values = list(graph_values(GRAPH))
    assert await ReadAhead([models]).run(values) == 3100
    assert await ReadAhead([models], max_bytes=3099).run(values) == 3000
    assert await ReadAhead([models], max_bytes=2999).run(values) == 100
    assert await ReadAhead([models], max_bytes=0).run(values) == 0
    assert free_memory() > 0


async def test_a_file_that_cannot_be_read_is_left_to_the_engine(models: Path) -> None:
    """An unreadable file is skipped, because the engine reports the error."""
    ahead = ReadAhead([models])
    assert ahead._read(models / "gone.safetensors", 1) == 0


async def test_the_expected_job_is_the_best_queued_job(clock: ManualClock) -> None:
    """The values of the best queued job, with its inputs applied, are expected; an empty queue has none."""
    shop = Shop(MemoryObjectStore(clock), clock)
    assert await expected_values(shop.queue, shop.jobs, "default") == []
    await shop.queued()
    inputs = (Input(node="2", field="vae_name", value="other.safetensors"),)
    best = await shop.queued(priority=5, inputs=inputs)
    await shop.objects.put(f"tenants/default/jobs/{best.job_id}/workflow.json", json.dumps(GRAPH).encode())
    values = await expected_values(shop.queue, shop.jobs, "default")
    assert values[:2] == ["other.safetensors", "wan/high.safetensors"]
    assert await expected_values(shop.queue, shop.jobs, "h100") == []
