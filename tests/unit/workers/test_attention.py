"""The choice of the attention implementation from a probe's results, and from a probe that fails."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.settings import EngineSettings
from workers.attention import SAGE_FLAG, SDPA_FLAG, AttentionSetting, EngineAttention, Measured, decide, parse, probe

pytestmark = pytest.mark.anyio

ENVIRONMENT = {"PATH": os.defpath}
GOOD: dict[str, Any] = {
    "torch": "2.9.1+cu128",
    "cuda": True,
    "gpu": "NVIDIA L40S",
    "memory_bytes": 48 * 1024**3,
    "capability": (8, 9),
    "sageattention": "2.2.0",
    "finite": True,
    "cosine": 0.9996,
    "sage_ms": 1.5,
    "sdpa_ms": 3.0,
}


def good(**changes: Any) -> Measured:
    return Measured(**(GOOD | changes))


def interpreter(folder: Path, script: str) -> str:
    """A script that takes the place of the engine's Python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_sage_is_chosen_if_accurate_and_faster() -> None:
    """SageAttention is chosen if it is accurate and faster, and the choice contains the measurements."""
    choice = decide(good(), "auto")
    assert (choice.backend, choice.flag, choice.capability) == ("sage", SAGE_FLAG, "8.9")
    assert (choice.gpu, choice.sageattention, choice.cosine) == ("NVIDIA L40S", "2.2.0", 0.9996)
    assert (choice.sage_ms, choice.sdpa_ms) == (1.5, 3.0)


@pytest.mark.parametrize("setting", ["auto", "sage"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"capability": (7, 5), "sageattention": "1.0.6"}, "architecture 7.5 is older"),
        ({"sageattention": None}, "not installed"),
        ({"sage_error": "RuntimeError: no kernel image"}, "no kernel image"),
        ({"finite": False, "cosine": None}, "NaN"),
        ({"cosine": float("nan")}, "NaN"),
        ({"cosine": 0.98}, "0.98000"),
        ({"sage_ms": None}, "no times"),
        ({"cuda": False, "capability": None}, "no GPU"),
        ({"torch": None, "torch_error": "No module named 'torch'"}, "No module named 'torch'"),
        ({"failure": "ended with -11: Segmentation fault"}, "Segmentation fault"),
    ],
)
def test_torchs_attention_is_chosen_if_sage_is_unusable(
    setting: AttentionSetting, changes: dict[str, Any], reason: str
) -> None:
    """Torch's attention is chosen if SageAttention is unusable, even if it is requested, with the reason and the
    GPU."""
    choice = decide(good(**changes), setting)
    assert (choice.backend, choice.flag, choice.gpu) == ("sdpa", SDPA_FLAG, "NVIDIA L40S")
    assert reason in choice.reason


def test_a_slower_sage_is_used_only_on_request() -> None:
    """A slower SageAttention is used if it is requested by name, not with `auto`."""
    slower = good(sage_ms=3.5)
    assert decide(slower, "auto").backend == "sdpa"
    assert decide(slower, "sage").backend == "sage"


def test_the_lines_of_a_probe_are_merged() -> None:
    """The JSON lines of a probe are merged, and other output of libraries is ignored."""
    said = b'{"torch": "2.9.1", "cuda": true}\nloading kernels...\n[1, 2]\n{"gpu": "NVIDIA L4"}\n'
    assert parse(said) == Measured(torch="2.9.1", cuda=True, gpu="NVIDIA L4")
    assert parse(b'{"cosine": NaN, "cuda": true}').cuda
    assert parse(b"hello").failure == "said nothing"
    assert "nonsense" in (parse(b'{"capability": "high"}').failure or "")


async def test_a_crashed_probe_keeps_its_earlier_results(tmp_path: Path) -> None:
    """Results before the crash of a probe are kept, and the crash is the reason of the choice."""
    python = interpreter(tmp_path, """echo '{"torch": "2", "cuda": true, "gpu": "X"}'; echo boom >&2; kill -SEGV $$""")
    measured = await probe(python, ENVIRONMENT, time_limit_s=60)
    assert measured.gpu == "X"
    assert "boom" in (measured.failure or "")


async def test_a_probe_that_hangs_is_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A probe that hangs is killed with its child processes, and a warning is logged."""
    python = interpreter(tmp_path, f"""echo $$ > {tmp_path}/pid; echo '{{"gpu": "X"}}'; sleep 600""")
    choice = await EngineAttention(python, ENVIRONMENT, time_limit_s=2.0).choose()
    assert (choice.backend, choice.reason, choice.gpu) == ("sdpa", "the probe took longer than 2 s", "X")
    assert [record.levelno for record in caplog.records if "took longer" in record.message] == [logging.WARNING]
    assert not is_running(int((tmp_path / "pid").read_text()))


async def test_a_fallback_on_a_gpu_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fallback to torch's attention on a GPU is logged as a warning."""
    python = interpreter(tmp_path, """echo '{"torch": "2", "cuda": true, "capability": [8, 0]}'""")
    choice = await EngineAttention(python, ENVIRONMENT).choose()
    assert "not installed" in choice.reason
    assert [record.levelno for record in caplog.records if "not installed" in record.message] == [logging.WARNING]


async def test_a_missing_python_is_a_reason_for_the_fallback(tmp_path: Path) -> None:
    """A missing Python interpreter is a reason for the fallback and no error."""
    choice = await EngineAttention(str(tmp_path / "none"), ENVIRONMENT).choose()
    assert choice.backend == "sdpa"
    assert "No such file" in choice.reason


async def test_no_probe_runs_if_the_choice_is_known(tmp_path: Path) -> None:
    """No probe runs on the CPU or if torch's attention is requested."""
    python = interpreter(tmp_path, f"touch {tmp_path}/ran")
    assert (await EngineAttention(python, ENVIRONMENT, cpu=True).choose()).backend == "sdpa"
    assert (await EngineAttention(python, ENVIRONMENT, setting="sdpa").choose()).flag == SDPA_FLAG
    assert not (tmp_path / "ran").exists()


async def test_the_real_probe() -> None:
    """The real probe runs in the Python of a configured ComfyUI, or in this one, which has no torch."""
    configured = EngineSettings().comfyui_python
    measured = await probe(str(configured or sys.executable), ENVIRONMENT, time_limit_s=300)
    assert measured.failure is None
    if configured is None:
        assert measured.torch is None
        assert "torch" in decide(measured, "auto").reason
    else:
        assert measured.torch is not None
        assert decide(measured, "auto").backend == ("sage" if measured.sageattention and measured.cuda else "sdpa")
