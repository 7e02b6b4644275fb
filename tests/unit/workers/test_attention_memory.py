"""The attention of a GPU that is known without a probe."""

import json
import os
from pathlib import Path

import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.keys import attention
from storage.pools.worker_facts import MOST_CHOICES, AttentionChoice, AttentionStore
from tests.unit.workers.test_attention import GOOD, interpreter
from workers.attention import SAGE_FLAG, SDPA_FLAG, EngineAttention
from workers.attention_memory import AttentionMemory, SeenGpu, has_sage, parse_gpu, seen_gpu

pytestmark = pytest.mark.anyio

L40S = SeenGpu("NVIDIA L40S", "570.86.15", (8, 9))
CHOICE = AttentionChoice(backend="sage", flag=SAGE_FLAG, reason="right here")


def driver(folder: Path, said: str = "NVIDIA L40S, 570.86.15, 8.9") -> dict[str, str]:
    """The environment of a machine whose driver gives this answer; each call is counted."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho asked >> {folder}/asked\necho '{said}'\n")
    tool.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.defpath}"}


def probed(folder: Path, **changes: object) -> str:
    """A Python whose probe gives these results; each run is counted."""
    said = json.dumps({**GOOD, **changes})
    return interpreter(folder, f"echo ran >> {folder}/probes\necho '{said}'")


def runs(folder: Path) -> int:
    probes = folder / "probes"
    return len(probes.read_text().splitlines()) if probes.exists() else 0


@pytest.fixture
def store(clock: ManualClock) -> AttentionStore:
    return AttentionStore(MemoryObjectStore(clock))


def test_the_drivers_answer_is_parsed() -> None:
    """The first GPU of the driver's answer is used, and a GPU name may contain commas."""
    assert parse_gpu("NVIDIA L40S, 570.86.15, 8.9\nNVIDIA L40S, 570.86.15, 8.9\n") == L40S
    assert parse_gpu("A, B, 1, 9.0") == SeenGpu("A, B", "1", (9, 0))
    for said in ("", "No devices were found", "A, 1, [N/A]"):
        assert parse_gpu(said) is None


async def test_a_machine_without_a_driver_has_no_gpu(tmp_path: Path) -> None:
    """A machine has no GPU if `nvidia-smi` is missing or fails."""
    assert await seen_gpu({"PATH": str(tmp_path)}) is None
    assert await seen_gpu(driver(tmp_path)) == L40S
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'A, 1, 8.9'\nexit 9\n")
    assert await seen_gpu({"PATH": str(tmp_path)}) is None


async def test_a_choice_is_probed_once_per_gpu(tmp_path: Path, store: AttentionStore) -> None:
    """A probe runs once for each image, GPU, driver and requested attention."""
    python = probed(tmp_path)

    async def choose(environment: dict[str, str], image: str = "im-1", setting: str = "auto") -> str | None:
        memory = AttentionMemory(store, "default", image)
        choice = await EngineAttention(python, environment, setting=setting, memory=memory).choose()  # type: ignore[arg-type]
        return choice.backend

    usual = driver(tmp_path)
    assert await choose(usual) == "sage"
    assert await choose(usual) == "sage"
    assert runs(tmp_path) == 1
    await choose(usual, image="im-2")
    await choose(usual, setting="sage")
    await choose(driver(tmp_path, "NVIDIA L40S, 571.1, 8.9"))
    await choose(driver(tmp_path, "NVIDIA H100, 570.86.15, 9.0"))
    assert runs(tmp_path) == 5


@pytest.mark.parametrize("changes", [{"sage_error": "out of memory"}, {"cuda": False, "capability": None}])
async def test_a_failed_probe_is_not_remembered(
    changes: dict[str, object], tmp_path: Path, store: AttentionStore
) -> None:
    """A failed probe runs again at the next start."""
    python, environment = probed(tmp_path, **changes), driver(tmp_path)
    for _ in range(2):
        memory = AttentionMemory(store, "default", "im-1")
        assert (await EngineAttention(python, environment, memory=memory).choose()).backend == "sdpa"
    assert runs(tmp_path) == 2


async def test_only_the_newest_choices_are_kept(store: AttentionStore) -> None:
    """Each pool keeps a bounded number of its newest choices."""
    for number in range(MOST_CHOICES + 2):
        await store.remember("default", str(number), CHOICE)
    assert await store.recall("default", "1") is None
    assert await store.recall("default", "2") == CHOICE
    assert await store.recall("h100", "2") is None


async def test_unreadable_choices_are_replaced(clock: ManualClock) -> None:
    """Choices that cannot be parsed, such as those of another version, count as empty and are replaced."""
    objects = MemoryObjectStore(clock)
    await objects.put(attention("default"), b"[]")
    store = AttentionStore(objects)
    assert await store.recall("default", "x") is None
    await store.remember("default", "x", CHOICE)
    assert await store.recall("default", "x") == CHOICE


def with_sage(folder: Path) -> str:
    """A Python that has SageAttention among its packages."""
    package = folder / "lib" / "python3.12" / "site-packages" / "sageattention"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (folder / "bin").mkdir()
    return str(folder / "bin" / "python")


async def test_the_likely_attention_needs_no_probe(tmp_path: Path) -> None:
    """The likely attention is SageAttention if it is installed and the GPU is recent enough; the driver is called
    once."""
    python = with_sage(tmp_path / "venv")
    assert has_sage(python)
    modern = driver(tmp_path)
    attention = EngineAttention(python, modern)
    assert await attention.likely_flag() == SAGE_FLAG
    assert await attention.likely_flag() == SAGE_FLAG
    assert (tmp_path / "asked").read_text() == "asked\n"
    assert await EngineAttention(python, {"PATH": "/nowhere"}).likely_flag() == SAGE_FLAG
    assert await EngineAttention(python, driver(tmp_path, "Tesla T4, 570.86.15, 7.5")).likely_flag() == SDPA_FLAG
    assert await EngineAttention(str(tmp_path / "other" / "bin" / "python"), modern).likely_flag() == SDPA_FLAG
