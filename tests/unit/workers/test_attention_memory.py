"""What is known of a GPU's attention without trying it."""

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
    """The environment of a machine whose driver says this; each question is counted."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho asked >> {folder}/asked\necho '{said}'\n")
    tool.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.defpath}"}


def probed(folder: Path, **changes: object) -> str:
    """A Python whose probe says this; each run is counted."""
    said = json.dumps({**GOOD, **changes})
    return interpreter(folder, f"echo ran >> {folder}/probes\necho '{said}'")


def runs(folder: Path) -> int:
    probes = folder / "probes"
    return len(probes.read_text().splitlines()) if probes.exists() else 0


@pytest.fixture
def store(clock: ManualClock) -> AttentionStore:
    return AttentionStore(MemoryObjectStore(clock))


def test_what_the_driver_says() -> None:
    """The first GPU counts; a name may have commas."""
    assert parse_gpu("NVIDIA L40S, 570.86.15, 8.9\nNVIDIA L40S, 570.86.15, 8.9\n") == L40S
    assert parse_gpu("A, B, 1, 9.0") == SeenGpu("A, B", "1", (9, 0))
    for said in ("", "No devices were found", "A, 1, [N/A]"):
        assert parse_gpu(said) is None


async def test_a_machine_without_a_driver_has_no_gpu(tmp_path: Path) -> None:
    """Nor one whose tool fails."""
    assert await seen_gpu({"PATH": str(tmp_path)}) is None
    assert await seen_gpu(driver(tmp_path)) == L40S
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'A, 1, 8.9'\nexit 9\n")
    assert await seen_gpu({"PATH": str(tmp_path)}) is None


async def test_a_choice_is_tried_once_for_a_gpu(tmp_path: Path, store: AttentionStore) -> None:
    """A later start in the same image, on such a GPU with that driver, knows it; every other one tries again."""
    python = probed(tmp_path)

    async def choose(environment: dict[str, str], image: str = "im-1", wish: str = "auto") -> str | None:
        memory = AttentionMemory(store, "default", image)
        choice = await EngineAttention(python, environment, wish=wish, memory=memory).choose()  # type: ignore[arg-type]
        return choice.backend

    usual = driver(tmp_path)
    assert await choose(usual) == "sage"
    assert await choose(usual) == "sage"
    assert runs(tmp_path) == 1
    await choose(usual, image="im-2")
    await choose(usual, wish="sage")
    await choose(driver(tmp_path, "NVIDIA L40S, 571.1, 8.9"))
    await choose(driver(tmp_path, "NVIDIA H100, 570.86.15, 9.0"))
    assert runs(tmp_path) == 5


@pytest.mark.parametrize("changes", [{"sage_error": "out of memory"}, {"cuda": False, "capability": None}])
async def test_a_trial_that_failed_is_not_remembered(
    changes: dict[str, object], tmp_path: Path, store: AttentionStore
) -> None:
    """It may go well the next time."""
    python, environment = probed(tmp_path, **changes), driver(tmp_path)
    for _ in range(2):
        memory = AttentionMemory(store, "default", "im-1")
        assert (await EngineAttention(python, environment, memory=memory).choose()).backend == "sdpa"
    assert runs(tmp_path) == 2


async def test_only_the_newest_choices_are_kept(store: AttentionStore) -> None:
    """One object a pool, whatever comes and goes; another pool has its own."""
    for number in range(MOST_CHOICES + 2):
        await store.remember("default", str(number), CHOICE)
    assert await store.recall("default", "1") is None
    assert await store.recall("default", "2") == CHOICE
    assert await store.recall("h100", "2") is None


async def test_choices_that_cannot_be_read_count_as_none(clock: ManualClock) -> None:
    """Another version may have written them."""
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


async def test_the_likely_attention(tmp_path: Path) -> None:
    """SageAttention where it is installed and the GPU is not too old for it; the driver is asked once."""
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
