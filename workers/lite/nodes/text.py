"""Texts and numbers."""

from typing import Any

from workers.lite.node import NodeClass, Result, Running, text


def primitive(run: Running, *, value: Any) -> Result:
    return Result((value,))


def string_concatenate(run: Running, *, string_a: str, string_b: str, delimiter: str) -> Result:
    return Result((delimiter.join((string_a, string_b)),))


def preview_any(run: Running, *, source: Any = None) -> Result:
    shown = source if isinstance(source, str) else str(source)
    return Result((shown,), {"text": (shown,)})


NODES = (
    NodeClass("PrimitiveString", primitive, {"value": ["STRING", {}]}, outputs=("STRING",)),
    NodeClass("PrimitiveInt", primitive, {"value": ["INT", {"min": 1 - 2**63, "max": 2**63 - 1}]}, outputs=("INT",)),
    NodeClass(
        "StringConcatenate",
        string_concatenate,
        {"string_a": ["STRING", {}], "string_b": ["STRING", {}], "delimiter": text()},
        outputs=("STRING",),
    ),
    NodeClass("PreviewAny", preview_any, {"source": ["*", {}]}, outputs=("STRING",), is_output=True),
)
