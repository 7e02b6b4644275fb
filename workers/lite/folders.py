"""ComfyUI's input, output and temp folders, and its rules for file names in them."""

import re
from dataclasses import dataclass
from pathlib import Path

_ANNOTATION = re.compile(r" ?\[(input|output|temp)\]$")


@dataclass(frozen=True, slots=True)
class Folders:
    input: Path
    output: Path
    temp: Path

    def of(self, kind: str) -> Path | None:
        return {"input": self.input, "output": self.output, "temp": self.temp}.get(kind)

    def make(self) -> None:
        for folder in (self.input, self.output, self.temp):
            folder.mkdir(parents=True, exist_ok=True)

    def split_annotation(self, name: str) -> tuple[str, str | None]:
        """Split `photo.png [output]` into the name and the folder's kind, None without one."""
        match = _ANNOTATION.search(name)
        return (name[: match.start()], match[1]) if match else (name, None)

    def annotated(self, name: str) -> Path | None:
        """Return the path of `photo.png` or `photo.png [output]`; None if it would be outside the folder."""
        plain, kind = self.split_annotation(name)
        return inside(self.of(kind or "input") or self.input, plain)

    def save_path(self, prefix: str, folder: Path) -> tuple[Path, str, int]:
        """Return the folder, the base name and the next free counter of a file with this prefix.

        Raises ValueError if the prefix leaves the folder.
        """
        target = inside(folder, prefix)
        if target is None:
            raise ValueError("Saving image outside the output folder is not allowed.")
        target.parent.mkdir(parents=True, exist_ok=True)
        taken = re.compile(re.escape(target.name) + r"_(\d+)(?:_.*|\..*)")
        numbers = [int(m[1]) for entry in target.parent.iterdir() if (m := taken.fullmatch(entry.name))]
        return target.parent, target.name, max(numbers, default=0) + 1

    def entry(self, path: Path, kind: str) -> dict[str, str]:
        """Return the file's entry in a ui payload."""
        folder = self.of(kind) or self.output
        subfolder = path.parent.relative_to(folder).as_posix()
        return {"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": kind}


def inside(folder: Path, name: str) -> Path | None:
    """Return the path of `name` below `folder`; None if it would be outside."""
    root = folder.resolve()
    path = (root / name).resolve()
    return path if path.is_relative_to(root) and path != root else None
