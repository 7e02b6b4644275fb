"""The chosen attention's flag reaches the engine, and the choice is made once while the engine starts."""

import sys
from pathlib import Path

import pytest

from infra.compose.worker import engine_environment
from workers.attention import SAGE_FLAG, SDPA_FLAG, EngineAttention
from workers.comfy.process import EngineProcess
from workers.comfy.spec import EngineFolders, EngineSpec
from workers.errors import EngineUnavailable
from workers.isolation import IsolationPolicy

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PROBE_OUTPUT = (
    '{"torch": "2.9.1", "cuda": true, "gpu": "NVIDIA L40S", "capability": [8, 9], "sageattention": "2.2.0", '
    '"finite": true, "cosine": 0.9997, "sage_ms": 1.0, "sdpa_ms": 2.0}'
)
MARKER = "engine starts with"
ENGINE = f"""
import os, pathlib, runpy, sys
print("{MARKER}", *(flag for flag in sys.argv if "attention" in flag), flush=True)
pathlib.Path(os.environ["STARTED"]).touch()
sys.path.insert(0, {str(ROOT)!r})
runpy.run_module("workers.lite", run_name="__main__")
"""


def _attention(folder: Path, script: str, *, has_sage: bool = False) -> EngineAttention:
    """An attention choice whose engine Python is a script in a folder laid out like a virtual environment."""
    python = folder / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    if has_sage:
        package = folder / "venv" / "lib" / "python3.12" / "site-packages" / "sageattention"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
    return EngineAttention(str(python), {"PATH": "/usr/bin:/bin"}, time_limit_s=60)


def _spec(folder: Path, attention: EngineAttention) -> EngineSpec:
    """An engine that prints the attention flag it starts with and marks its start with a file."""
    script = folder / "engine.py"
    script.write_text(ENGINE)
    folders = EngineFolders(folder / "engine")
    command = [sys.executable, str(script), "--disable-metadata", *folders.flags()]
    environment = engine_environment() | {"STARTED": str(folder / "started")}
    # Isolation is off because the probe and the engine write marker files into the test's folder.
    return EngineSpec(command, ROOT, folders, environment, 60.0, attention, IsolationPolicy("off"))


def _starts(host: EngineProcess) -> list[str]:
    return [line.removeprefix(MARKER).strip() for line in host.log.tail(100) if line.startswith(MARKER)]


async def test_the_engine_is_started_with_the_flag(tmp_path: Path) -> None:
    """The engine gets the chosen flag at its first start and at a restart, with a single probe."""
    attention = _attention(tmp_path, f"echo ran >> {tmp_path}/probes\necho '{PROBE_OUTPUT}'", has_sage=True)
    host = EngineProcess(_spec(tmp_path, attention))
    try:
        await host.start()
        await host.restart()
    finally:
        await host.stop()
    assert _starts(host) == [SAGE_FLAG, SAGE_FLAG]
    assert (host.attention.backend, host.attention.gpu) == ("sage", "NVIDIA L40S")
    assert (tmp_path / "probes").read_text() == "ran\n"


async def test_the_engine_starts_while_its_attention_is_probed(tmp_path: Path) -> None:
    """The engine starts while the attention probe is still running."""
    script = f"while [ ! -e {tmp_path}/started ]; do sleep 0.05; done; echo '{PROBE_OUTPUT}'"
    host = EngineProcess(_spec(tmp_path, _attention(tmp_path, script, has_sage=True)))
    try:
        await host.start()
    finally:
        await host.stop()
    assert (host.attention.backend, _starts(host)) == ("sage", [SAGE_FLAG])


async def test_a_wrong_guess_costs_another_start(tmp_path: Path) -> None:
    """An engine that was started with the wrong attention is started again with the right attention."""
    host = EngineProcess(_spec(tmp_path, _attention(tmp_path, 'echo \'{"torch": "2"}\'', has_sage=True)))
    try:
        await host.start()
        assert await host.engine.object_info()
    finally:
        await host.stop()
    assert (host.attention.backend, _starts(host)) == ("sdpa", [SAGE_FLAG, SDPA_FLAG])


async def test_an_engine_that_exits_with_the_guess_starts_without_it(tmp_path: Path) -> None:
    """An engine that exits with the guessed flag is started without it, and an engine that exits in both cases is
    unavailable.
    """
    spec = _spec(tmp_path, _attention(tmp_path, 'echo \'{"torch": "2"}\'', has_sage=True))
    script = tmp_path / "engine.py"
    script.write_text(f"import sys\nif {SAGE_FLAG!r} in sys.argv: sys.exit('no sage')\n{ENGINE}")
    host = EngineProcess(spec)
    try:
        await host.start()
        assert _starts(host) == [SDPA_FLAG]
    finally:
        await host.stop()
    script.write_text("import sys; sys.exit('no kernel image')")
    with pytest.raises(EngineUnavailable, match="no kernel image"):
        await EngineProcess(spec).start()
