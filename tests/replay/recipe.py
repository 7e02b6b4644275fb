"""The image's recorded recipe as commands for this machine: every RUN line, with its paths below one folder."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tests" / "acceptance" / "recipes" / "default.txt"
_CHECKOUT = re.compile(r"git init -q (?P<folder>\S+) && .* remote add origin (?P<repository>\S+)")
_FETCH = re.compile(r"git -C (?P<folder>\S+) fetch ")
_SAGE_BUILD = re.compile(r"CC=gcc .*?--no-build-isolation \S+")
SYSTEM = ("apt-get ", "ln -s ", "useradd ")
"""The starts of lines that change the machine itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """`line` is the line of the recipe. `command` is None for a skipped step; `note` gives the reason or the change."""

    line: str
    command: str | None
    note: str = ""


def steps(into: Path, python: str, sources: Path | None) -> Iterator[Step]:
    """Yield the steps; `python` is the image's Python, and `sources` has copies of the repositories by name."""
    copied: set[str] = set()
    for line in RECIPE.read_text().splitlines():
        if line.startswith("RUN "):
            yield _step(line.removeprefix("RUN "), into, python, sources, copied)


def relocated(line: str, into: Path) -> str:
    """Return the line with the image's paths below `into`."""
    return re.sub(r"(?<![\w./-])/(opt|models)(?=[/\s\\'-]|$)", rf"{into}/\1", line)


def _step(line: str, into: Path, python: str, sources: Path | None, copied: set[str]) -> Step:
    if line.startswith(SYSTEM):
        return Step(line, None, "it changes the machine")
    moved = relocated(line, into)
    if sources is not None and (match := _CHECKOUT.match(moved)):
        name = match["repository"].rpartition("/")[2]
        copied.add(match["folder"])
        return Step(line, f"cp -rL {sources / name} {match['folder']}", f"from the copy of {name}")
    if sources is not None and (match := _FETCH.match(moved)) and match["folder"] in copied:
        return Step(line, None, "the copy is at that commit")
    if _SAGE_BUILD.search(moved):
        return Step(line, _SAGE_BUILD.sub("false", moved), "not compiled: the build fails here, and its fall-back runs")
    moved = moved.replace("python -m venv", f"{python} -m venv") if moved.startswith("python -m venv") else moved
    moved = moved.replace("/.requirements.txt", str(ROOT / "requirements" / "base.txt"))
    moved = moved.replace(
        "/root/comfyui_modal.py infra.check_image", f"{ROOT}/comfyui_modal.py infra.check_image {into}"
    )
    if moved.startswith("python "):
        moved = f"{into}/python/bin/{moved}"
    return Step(line, moved)
