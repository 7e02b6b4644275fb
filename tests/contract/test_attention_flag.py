"""The flag of the attention that was chosen reaches the engine, and the choice is made once."""

import sys
from pathlib import Path

import pytest

from workers.attention import SAGE_FLAG, EngineAttention
from workers.comfy.host import EngineProcess
from workers.comfy.spec import EngineFolders, EngineSpec
from workers.errors import EngineUnavailable

pytestmark = pytest.mark.anyio

SAID = (
    '{"torch": "2.9.1", "cuda": true, "gpu": "NVIDIA L40S", "capability": [8, 9], "sageattention": "2.2.0", '
    '"finite": true, "cosine": 0.9997, "sage_ms": 1.0, "sdpa_ms": 2.0}'
)


async def test_the_engine_is_started_with_the_flag(tmp_path: Path) -> None:
    """Also when it is started again, without another probe."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho ran >> $HOME/probes\necho '{SAID}'\n")
    python.chmod(0o755)
    spec = EngineSpec(
        [sys.executable, "-c", "import sys; print(sys.argv); sys.exit(3)"],
        tmp_path,
        EngineFolders(tmp_path / "engine"),
        attention=EngineAttention(str(python), {"PATH": "/usr/bin:/bin"}),
    )
    host = EngineProcess(spec)
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match=SAGE_FLAG):
            await host.start()
    assert (host.attention.backend, host.attention.gpu) == ("sage", "NVIDIA L40S")
    assert (host.enclosure.cache / "probes").read_text() == "ran\n"
