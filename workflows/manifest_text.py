"""Writes the manifest of a named workflow as TOML with comments, for its author to edit.

The proposed inputs are entries of the manifest, the other values of the graph are comments that can be made inputs.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from workflows.manifest import NamedInput
from workflows.proposals import ProposedInput

LONGEST_COMMENT = 500
"""Characters of a text that is repeated in a comment."""
MOST_IN_A_LINE = 100
"""Characters of a list that stands in one line."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_REASONS = {
    "app": "chosen for App mode",
    "file": "a file that the workflow loads",
    "prompt": "a text",
    "subgraph": "shown by a subgraph",
    "primitive": "a primitive node",
    "title": "a node with a title of its own",
    "seed": "a seed",
    "size": "a size",
    "other": "",
}


def manifest_text(
    name: str, title: str, source: str, inputs: Sequence[ProposedInput], models: Sequence[str], nodes: Sequence[str]
) -> str:
    """Return the manifest of the workflow `name`, whose graph is in NAME.json. `source` is the file it was made of."""
    return "\n".join(_lines(name, title, source, inputs, models, nodes)) + "\n"


def _lines(
    name: str, title: str, source: str, inputs: Sequence[ProposedInput], models: Sequence[str], nodes: Sequence[str]
) -> Iterator[str]:
    yield f"# The workflow {name}, made of {comment(source)} by `comfyui-modal workflows add`. Edit it as you like:"
    yield "# rename inputs, describe them, narrow their ranges, remove those that a caller should not set."
    yield "# docs/how-to/workflows.md explains every line. The API reads this file when it starts."
    yield ""
    yield f"title = {toml(title)}"
    yield 'description = ""  # what it makes, in one sentence'
    yield f"graph = {toml(f'{name}.json')}  # in API format, in this folder"
    yield from _list("models", models, "folder/file, as in the manifest of models")
    yield from _list("nodes", nodes, "packs of custom nodes")
    yield "# vram_gb = 12     # GPU memory that it needs: `comfyui-modal deploy` warns where a pool has less"
    yield "# ram_gb = 16      # memory of the worker, likewise"
    yield "# timeout_s = 600  # run-time limit of a job that names none"
    yield from _described([one for one in inputs if one.is_chosen], mark="")
    others = [one for one in inputs if not one.is_chosen]
    if others:
        yield ""
        yield "# Further values of the graph. To make one an input, remove the # that begins its lines."
        yield from _described(others, mark="#")


def _described(inputs: Iterable[ProposedInput], *, mark: str) -> Iterator[str]:
    for one in inputs:
        reason = _REASONS[one.source]
        yield ""
        yield f"# {comment(one.origin)}{f': {reason}' if reason else ''}"
        for line in _input(one.name, one.declared):
            # Not indented behind a mark: "# " begins prose, "#" alone what can be made an input.
            yield f"{mark}{line.lstrip()}" if mark else line


def _input(name: str, declared: NamedInput) -> Iterator[str]:
    yield f"[inputs.{name}]"
    yield f"type = {toml(declared.type)}"
    yield from _list("places", declared.places)
    for bound, limit in (("min", declared.min), ("max", declared.max)):
        if limit is not None:
            yield f"{bound} = {int(limit) if declared.type == 'integer' else float(limit)}"
    if declared.choices:
        yield from _list("choices", declared.choices)
    yield f"description = {toml(declared.description)}"


def _list(name: str, values: Sequence[str], about: str = "") -> Iterator[str]:
    line = f"{name} = [{', '.join(map(toml, values))}]"
    if len(line) <= MOST_IN_A_LINE:
        yield line + (f"  # {about}" if about else "")
        return
    yield f"{name} = [" + (f"  # {about}" if about else "")
    line = " "
    for value in map(toml, values):
        if len(line) + len(value) > MOST_IN_A_LINE and line.strip():
            yield line
            line = " "
        line += f" {value},"
    yield line
    yield "]"


def toml(text: str) -> str:
    """Return the text as a basic string of TOML. What no string of TOML can contain becomes U+FFFD."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{_CONTROL.sub(_escape, escaped)}"'


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return "\ufffd" if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"


def comment(text: Any) -> str:
    """Return the text in one line without control characters, for a comment."""
    return _CONTROL.sub(" ", str(text))[:LONGEST_COMMENT]
