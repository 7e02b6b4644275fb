"""A page's shell blocks, pasted one after the other into one shell, as a reader does it."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.environment import clean_environment

ROOT = Path(__file__).parents[2]
_NEEDED = ("Makefile", "pyproject.toml", "requirements", ".venv")
BASH = shutil.which("bash") or "/bin/bash"
_FAILED = "pasted command failed: "


@dataclass(frozen=True, slots=True)
class Pasted:
    """What a reader sees. `failed` are the commands that ended with another exit code than 0."""

    output: str
    failed: list[str]


def shell_blocks(page: Path, heading: str | None = None) -> list[str]:
    """Return the `sh` blocks of a page, or of one of its sections."""
    text = page.read_text()
    if heading is not None:
        text = re.split(r"^## ", text.partition(f"\n## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def folder_like_the_checkout(folder: Path) -> Path:
    """Link what the blocks need of the checkout into the folder, so that they leave nothing in the checkout."""
    for name in _NEEDED:
        (folder / name).symlink_to(ROOT / name)
    return folder


def paste(
    blocks: list[str], folder: Path, *, replaced: Mapping[str, str] | None = None, timeout: float = 240
) -> Pasted:
    """Run the blocks in one shell, whose background processes end with it."""
    script = f"set -E; trap 'echo \"{_FAILED}$BASH_COMMAND\"' ERR\n" + "\n".join(blocks)
    for old, new in (replaced or {}).items():
        assert old in script, f"the page no longer has {old}"
        script = script.replace(old, new)
    log = folder / "pasted.log"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            [BASH, "-c", script],
            cwd=folder,
            env=clean_environment() | {"COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            shell.wait(timeout)
        finally:
            _end(shell.pid)  # with what it has left running
            shell.wait()
    text = log.read_text()
    return Pasted(text, [line.removeprefix(_FAILED) for line in text.splitlines() if line.startswith(_FAILED)])


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
