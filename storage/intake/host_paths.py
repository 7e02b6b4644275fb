"""Hides this machine's paths in the errors and logs of engines and decoders that tenants may read.

`/tmp/x/engines/worker-1/input/a.png` becomes `input/a.png`. Folders that the caller knows get their label; every other
absolute path, POSIX or Windows, is shortened to the part below ComfyUI's folders, or to its last name. Relative paths
and URLs stay. Only text from engines and decoders is changed, never a client's own.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ELSEWHERE = "…"

_NAME = r"[^\\/\s'\"`<>|:;,()\[\]{}]"
_START = r"(?<![\w.:/\\~-])"
"""An absolute path does not begin within a word, a relative path or a URL."""
_POSIX = rf"(?:(?:file|sqlite):/{{2,}})?/{_NAME}+(?:/{_NAME}*)+"
_WINDOWS = rf"(?:[A-Za-z]:(?:\\\\?|/)|\\\\\\?\\?{_NAME}+\\\\?){_NAME}*(?:(?:\\\\?|/){_NAME}*)*"
_PATH = re.compile(
    rf"(?P<quote>['\"])(?P<quoted>(?:/[^/'\"\n]+/|[A-Za-z]:[\\/]|\\\\)[^'\"\n]*)(?P=quote)"
    rf"|{_START}(?P<bare>{_POSIX}|{_WINDOWS})"
)
_SEPARATOR = re.compile(r"[\\/]+")

_OF_COMFYUI = frozenset({"input", "output", "temp", "models", "custom_nodes"})
_OF_PYTHON = re.compile(r"site-packages|dist-packages|python3\.\d+")


class HostPaths:
    """`folders` maps known folders to their labels. Their resolved paths are replaced too."""

    def __init__(self, folders: Mapping[Path, str] | None = None) -> None:
        known = {form: label for path, label in (folders or {}).items() for form in (str(path), str(path.resolve()))}
        # The first alternative of an expression that matches wins, so a folder follows those inside it.
        longest_first = sorted(known, key=len, reverse=True)
        self._labels = known
        self._known = re.compile("|".join(rf"{re.escape(form)}(?![\w.-])" for form in longest_first)) if known else None

    def hidden(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(lambda found: self._labels[found[0]], text)
        return _PATH.sub(_shortened, text)

    def hidden_in(self, document: Any) -> Any:
        """Hide the paths in every string of a JSON document, names included."""
        if isinstance(document, str):
            return self.hidden(document)
        if isinstance(document, list | tuple):
            return [self.hidden_in(item) for item in document]
        if isinstance(document, Mapping):
            return {self.hidden_in(name): self.hidden_in(item) for name, item in document.items()}
        return document


def _shortened(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    return f"{quote}{_label(found['quoted'] or found['bare'])}{quote}"


def _label(path: str) -> str:
    names = [name for name in _SEPARATOR.split(path) if name]
    for position in range(len(names) - 1, -1, -1):
        if _OF_PYTHON.fullmatch(names[position]):
            return "/".join(names[position:])
    lowered = [name.lower() for name in names]
    if "comfyui" in lowered:
        names = names[len(lowered) - lowered[::-1].index("comfyui") :]
        return "/".join(names if names and names[0] in _OF_COMFYUI else ("ComfyUI", *names))
    for position, name in enumerate(names):
        if name in _OF_COMFYUI:
            return "/".join(names[position:])
    return f"{ELSEWHERE}/{names[-1]}" if names else ELSEWHERE
