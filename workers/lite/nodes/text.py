"""Texts and numbers."""

from typing import Any

from workers.lite.node import NodeClass, Result, Running, integer, text


def primitive(run: Running, *, value: Any) -> Result:
    return Result((value,))


def string_concatenate(run: Running, *, string_a: str, string_b: str, delimiter: str) -> Result:
    return Result((delimiter.join((string_a, string_b)),))


def preview_any(run: Running, *, source: Any = None) -> Result:
    return Result(ui={"text": (source if isinstance(source, str) else str(source),)})


NODES = (
    NodeClass("PrimitiveString", primitive, {"value": text()}, outputs=("STRING",)),
    NodeClass("PrimitiveInt", primitive, {"value": integer(0, -(2**63), 2**63 - 1)}, outputs=("INT",)),
    NodeClass(
        "StringConcatenate",
        string_concatenate,
        {"string_a": text(), "string_b": text(), "delimiter": text()},
        outputs=("STRING",),
    ),
    NodeClass("PreviewAny", preview_any, {"source": ["*", {}]}, is_output=True),
)
