"""Texts and numbers."""

import re
from typing import Any

from workers.lite.node import NodeClass, Result, Running, choice, integer, text

MODES = ("First Match", "All Matches", "First Group", "All Groups")


def primitive(run: Running, *, value: Any) -> Result:
    return Result((value,))


def string_concatenate(run: Running, *, string_a: str, string_b: str, delimiter: str) -> Result:
    return Result((delimiter.join((string_a, string_b)),))


def string_replace(run: Running, *, string: str, find: str, replace: str) -> Result:
    return Result((string.replace(find, replace),))


def regex_extract(  # noqa: PLR0913  one an input
    run: Running,
    *,
    string: str,
    regex_pattern: str,
    mode: str,
    case_insensitive: bool,
    multiline: bool,
    dotall: bool,
    group_index: int,
) -> Result:
    """Finds a pattern. Without a match, and for a pattern that is none, the result is empty."""
    switches = ((case_insensitive, re.IGNORECASE), (multiline, re.MULTILINE), (dotall, re.DOTALL))
    flags = sum(flag for is_on, flag in switches if is_on)
    try:
        matches = list(re.finditer(regex_pattern, string, flags))
    except re.error:
        matches = []
    return Result(("\n".join(_extracted(matches, mode, group_index)),))


def _extracted(matches: list[re.Match[str]], mode: str, group_index: int) -> list[str]:
    match mode:
        case "First Match":
            return [match[0] for match in matches[:1]]
        case "All Matches":  # where the pattern has groups, the first of them, as Python's findall does it
            return [(match[1] or "") if match.groups() else match[0] for match in matches]
        case "First Group":
            return [match[group_index] or "" for match in matches[:1] if len(match.groups()) >= group_index]
        case _:
            return [match[group_index] or "" for match in matches if 0 < len(match.groups()) >= group_index]


def preview_any(run: Running, *, source: Any = None) -> Result:
    shown = source if isinstance(source, str) else str(source)
    return Result((shown,), {"text": (shown,)})


_ANY = {"min": 1 - 2**63, "max": 2**63 - 1}
_LONG = ["STRING", {"multiline": True}]

NODES = (
    NodeClass("PrimitiveString", primitive, {"value": ["STRING", {}]}, outputs=("STRING",)),
    NodeClass("PrimitiveStringMultiline", primitive, {"value": _LONG}, outputs=("STRING",)),
    NodeClass("PrimitiveBoolean", primitive, {"value": ["BOOLEAN", {}]}, outputs=("BOOLEAN",)),
    NodeClass("PrimitiveFloat", primitive, {"value": ["FLOAT", {**_ANY, "step": 0.1}]}, outputs=("FLOAT",)),
    NodeClass("PrimitiveInt", primitive, {"value": ["INT", {**_ANY}]}, outputs=("INT",)),
    NodeClass(
        "StringConcatenate",
        string_concatenate,
        {"string_a": ["STRING", {}], "string_b": ["STRING", {}], "delimiter": text()},
        outputs=("STRING",),
    ),
    NodeClass("StringReplace", string_replace, {"string": _LONG, "find": _LONG, "replace": _LONG}, outputs=("STRING",)),
    NodeClass(
        "RegexExtract",
        regex_extract,
        {
            "string": _LONG,
            "regex_pattern": _LONG,
            "mode": choice(*MODES),
            "case_insensitive": ["BOOLEAN", {"default": True}],
            "multiline": ["BOOLEAN", {"default": False}],
            "dotall": ["BOOLEAN", {"default": False}],
            "group_index": integer(1, 0, 100),
        },
        outputs=("STRING",),
    ),
    NodeClass("PreviewAny", preview_any, {"source": ["*", {}]}, outputs=("STRING",), is_output=True),
)
