"""The response bodies of health checks and problems."""

from typing import Any, Literal

from pydantic import (
    Field,
)

from app.wire.base import Answer


class Health(Answer):
    status: Literal["ok"]
    version: str = Field(description="of this API's code")


class Ready(Answer):
    status: Literal["ready", "not_ready"]
    detail: str


class ProblemView(Answer):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    hint: str
    pointer: str | None = None
    errors: list[dict[str, str]] | None = Field(
        default=None, description="every fault: pointer, detail, and for those of a graph type and hint"
    )
    node_errors: dict[str, Any] | None = Field(
        default=None,
        description="the faults of a graph as ComfyUI's POST /prompt words them: by node id {errors: [{type, message, "
        "details, extra_info}], dependent_outputs, class_type}",
    )
