"""The lock of the image: the version of every Python package in the engine's environment.

There are two files for each CUDA version. One has torch's packages only, so that a new custom node does not rebuild
the layers of torch and SageAttention. pip uses a lock as constraints, `make image-lock` renews it
(`infra.make_image_lock`), and `infra.check_image` compares it with the installed packages. Its header lists its inputs.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

FOLDER = Path("requirements")
HEADER = "# The image's Python packages, made by `make image-lock` from:"
_SOURCE = "#   "
NOT_LOCKED = frozenset({"pip", "sageattention"})
"""Packages outside the lock: pip comes with Python, SageAttention 2 is compiled at a pinned commit."""


def torch_lock(cuda: str) -> Path:
    """The path of the lock of torch and SageAttention's build tools."""
    return FOLDER / f"image-{cuda}-torch.txt"


def full_lock(cuda: str) -> Path:
    """The path of the lock of the engine's whole environment, torch included."""
    return FOLDER / f"image-{cuda}.txt"


def with_header(sources: Sequence[str], pins: str) -> str:
    return "\n".join([HEADER, *(_SOURCE + source for source in sources), pins])


def recorded_sources(text: str) -> list[str]:
    """Return the inputs of a lock from its header."""
    return [line.removeprefix(_SOURCE) for line in text.splitlines() if line.startswith(_SOURCE)]


def pins(text: str) -> dict[str, str]:
    """Return the versions of a lock, by normalised name."""
    found = (re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line) for line in text.splitlines())
    return {normalised(match[1]): match[2] for match in found if match}


def differences(locked: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """Describe the packages that are installed in another version than the lock's."""
    # A locked package that is not installed is no difference: a deployment may leave out custom nodes.
    return [
        f"{name} {installed[name]} is installed, the lock says {locked[name]}"
        for name in sorted(locked.keys() & installed.keys())
        if not _is_same(locked[name], installed[name])
    ]


def unlocked(locked: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """Return the installed packages that are not in the lock, as `name==version`."""
    return [f"{name}=={installed[name]}" for name in sorted(installed.keys() - locked.keys() - NOT_LOCKED)]


def normalised(name: str) -> str:
    """Normalise a package's name as PEP 503 does."""
    return re.sub(r"[-_.]+", "-", name).lower()


def by_name(packages: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Index pairs of name and version by normalised name."""
    return {normalised(name): version for name, version in packages}


def _is_same(locked: str, installed: str) -> bool:
    """Compare two versions. A local version (`2.11.0+cu130`) is the same release."""
    return installed in (locked, locked.partition("+")[0]) or installed.partition("+")[0] == locked
