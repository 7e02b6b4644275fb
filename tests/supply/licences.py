"""`make licences` writes docs/reference/licences.md from the metadata of the installed packages."""

import re
import sys
from collections.abc import Iterator
from email.message import Message
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)(?: ; (.*?))? \\$", re.MULTILINE)
_ELSEWHERE = re.compile(r"sys_platform == '(win32|cygwin|darwin)'|platform_python_implementation == 'PyPy'")
_LONGEST = 40

HEAD = """# Licences

ComfyUI Modal API is under Apache-2.0. It is installed with these packages. `make licences` writes this list from what
they say of themselves; a test compares names and versions with `requirements/base.txt`. The development requirements
(`requirements/dev.txt`) are not distributed.

Not part of it, and run as separate processes: ComfyUI and comfy-cli (GPL-3.0), the custom nodes of `infra/nodes.toml`
(each repository's own licence), SageAttention (Apache-2.0). The licence of each model stands in `infra/models.toml`.

| package | version | licence |
|---|---|---|
"""


def pinned(requirements: str) -> Iterator[tuple[str, str]]:
    """Return the name and version of each requirement that a Linux machine installs."""
    for name, version, condition in _PINNED.findall((ROOT / "requirements" / requirements).read_text()):
        if not re.search(
            r"sys_platform == '(win32|cygwin|darwin)'|platform_python_implementation == 'PyPy'", condition
        ):
            yield name, version


def licence(about: Message) -> str:
    """Return the SPDX expression of a package, or else its licence text or its classifiers."""
    spdx, words = about.get("License-Expression"), about.get("License")
    classified = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier", ()) if line.startswith("License")]
    short = words if words and "\n" not in words and len(words) <= _LONGEST else None
    return spdx or short or "; ".join(classified) or "see the package"


def document() -> str:
    rows = (
        f"| {name} | {version} | {licence(metadata.metadata(name))} |\n"  # type: ignore[arg-type]
        for name, version in pinned("base.txt")
    )
    return HEAD + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(document())
