"""The lock of the image: the version of every Python package in the engine's environment.

One file for each CUDA, and one of torch's packages alone, so that a new custom node leaves the layers of torch and
SageAttention as they are. pip takes a lock as constraints; `make image-lock` makes it anew (`infra.make_image_lock`),
and `infra.check_image` compares it with what is installed. Its header lists what it was made from.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

FOLDER = Path("requirements")
HEADER = "# The image's Python packages, made by `make image-lock` from:"
_SOURCE = "#   "
NOT_LOCKED = frozenset({"pip", "sageattention"})
"""pip comes with Python; SageAttention 2 is compiled at a pinned commit, and takes the place of its older release."""


def torch_lock(cuda: str) -> Path:
    """Of torch and what SageAttention is built with."""
    return FOLDER / f"image-{cuda}-torch.txt"


def full_lock(cuda: str) -> Path:
    """Of everything in the engine's environment, torch included."""
    return FOLDER / f"image-{cuda}.txt"


def with_header(sources: Sequence[str], pins: str) -> str:
    return "\n".join([HEADER, *(_SOURCE + source for source in sources), pins])


def recorded_sources(text: str) -> list[str]:
    """What a lock was made from, as its header says."""
    return [line.removeprefix(_SOURCE) for line in text.splitlines() if line.startswith(_SOURCE)]


def pins(text: str) -> dict[str, str]:
    """Version by normalised name."""
    found = (re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line) for line in text.splitlines())
    return {normalised(match[1]): match[2] for match in found if match}


def differences(locked: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """Packages that are installed in another version than the lock's, in words. One that is not installed is none: a
    deployment may leave custom nodes out."""
    return [
        f"{name} {installed[name]} is installed, the lock says {locked[name]}"
        for name in sorted(locked.keys() & installed.keys())
        if not _is_same(locked[name], installed[name])
    ]


def unlocked(locked: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """Packages that are installed and that the lock does not have, as `name==version`."""
    return [f"{name}=={installed[name]}" for name in sorted(installed.keys() - locked.keys() - NOT_LOCKED)]


def normalised(name: str) -> str:
    """A package's name, as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def by_name(packages: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Version by normalised name, of pairs of both."""
    return {normalised(name): version for name, version in packages}


def _is_same(locked: str, installed: str) -> bool:
    """A local version (`2.11.0+cu130`) is the same release."""
    return installed in (locked, locked.partition("+")[0]) or installed.partition("+")[0] == locked
