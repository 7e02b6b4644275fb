"""An engine cannot read its worker's secrets: real processes of one user."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.compose.worker import engine_environment
from tests.support.environment import clean_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux hides them")


def test_an_engine_cannot_read_its_workers_environment_or_memory(tmp_path: Path) -> None:
    """An engine can write its folders, but cannot read the environment or memory of its worker, even as root."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.secretive", str(tmp_path)],
        env=clean_environment() | {"THE_SECRET": "hush-hush"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    seen = json.loads(ended.stdout)
    expected = {"environ": "PermissionError", "memory": "PermissionError", "uid": os.getuid(), "kept": "hush-hush"}
    assert seen == expected
    assert (tmp_path / "input" / "written").exists()


def test_the_environment_in_proc_contains_no_secret() -> None:
    """The environment in /proc contains no secret, while the program can still read all variables."""
    program = (
        "import os, subprocess, sys; from infra.secrecy import keep_secrets; os.environ['SET_LATER_KEY'] = 'hush-two';"
        "keep_secrets(); sys.stdout.write(open('/proc/self/environ').read() if os.getuid() == 0 else '');"
        "sys.stdout.write(subprocess.check_output(['env'], text=True));"
        "assert os.environ['COMFYUI_MODAL_S3_SECRET_KEY'] == os.environ['AWS_SECRET_ACCESS_KEY'] == 'hush-hush'"
    )
    given = {"COMFYUI_MODAL_S3_SECRET_KEY": "hush-hush", "AWS_SECRET_ACCESS_KEY": "hush-hush", "HARMLESS": "well-known"}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment() | given,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "hush" not in ended.stdout
    assert "AWS_SECRET_ACCESS_KEY=xxxxxxxxx" in ended.stdout
    assert "HARMLESS=well-known" in ended.stdout


def test_the_engine_gets_no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine gets Hugging Face's folders and switches, but no token."""
    for name in ("HF_TOKEN", "HF_HOME", "HUGGING_FACE_HUB_TOKEN", "COMFYUI_MODAL_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    assert {"HF_HOME"} == engine_environment().keys() & {
        *("HF_TOKEN", "HF_HOME", "HUGGING_FACE_HUB_TOKEN", "COMFYUI_MODAL_API_KEY", "AWS_SECRET_ACCESS_KEY")
    }
