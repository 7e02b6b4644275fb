"""GPU names as drivers and ComfyUI report them."""

import pytest

from infra.gpus import MODAL_USD_PER_S
from workers.comfy.system import LONGEST, SystemFacts, gpu_name, system_facts


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("Tesla T4", "T4"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
    ],
)
def test_modals_gpus_have_their_names_and_prices(driver: str, name: str) -> None:
    """The driver's name of each Modal GPU maps to Modal's name, which has a price."""
    assert gpu_name(driver) == name
    assert 0 < MODAL_USD_PER_S[name] < 0.01


@pytest.mark.parametrize("driver", ["NVIDIA L40", "NVIDIA GeForce RTX 4090", "NVIDIA RTX A1000", "NVIDIA A1000"])
def test_other_gpus_keep_their_names(driver: str) -> None:
    """A GPU whose name only contains another GPU's name keeps its own."""
    assert gpu_name(driver) == driver


def test_system_facts_are_read_from_comfyui() -> None:
    """System facts contain the GPU without its index and its allocator."""
    system = {"comfyui_version": "0.33.0", "python_version": "3.12.3 (main)", "pytorch_version": "2.9.1+cu128"}
    device = {"name": "cuda:0 NVIDIA H100 80GB HBM3 : cudaMallocAsync", "type": "cuda", "vram_total": 85 * 10**9}
    assert system_facts({"system": system, "devices": [device]}) == SystemFacts(
        "comfyui", "0.33.0", "3.12.3", "2.9.1+cu128", "NVIDIA H100 80GB HBM3", 85 * 10**9
    )


def test_system_facts_are_bounded() -> None:
    """System facts are short and printable, because every job's record repeats them and a node can make an engine
    answer anything."""
    said = "\ud800\x1b[2J" + "v" * 1_000_000
    system = dict.fromkeys(("engine", "comfyui_version", "python_version", "pytorch_version"), said)
    facts = system_facts({"system": system, "devices": [{"name": said, "type": "cuda", "vram_total": 10**400}]})
    texts = (facts.engine, facts.comfyui_version, facts.python_version, facts.torch_version, facts.gpu)
    assert {text for text in texts if text is None or not text.isprintable() or len(text) > LONGEST} == set()
    assert facts.gpu_memory_bytes is None


def test_a_cpu_or_malformed_stats_give_no_gpu() -> None:
    """A CPU is not reported as a GPU, and missing or malformed fields are ignored."""
    cpu = {"name": "cpu", "type": "cpu", "vram_total": 1}
    assert system_facts({"system": {"engine": "lite"}, "devices": [cpu]}) == SystemFacts("lite")
    for stats in ({}, {"system": 3, "devices": "none"}, {"system": {"python_version": ""}, "devices": [1, {}]}):
        assert system_facts(stats) == SystemFacts()
