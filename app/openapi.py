"""Builds the OpenAPI 3.1 document from the operations of the API and their models.

`docs/reference/openapi.json` is this document, committed; a test compares it with the code.
"""

from typing import Any

from pydantic import BaseModel, Field
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from app import __version__, problems
from app.api import batches, jobs, limits, nodes, system, uploads, webhooks, workflows
from app.auth import scope_for
from app.fields import ResponseBody
from app.operations import Operation


class ProblemView(ResponseBody):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    hint: str
    pointer: str | None = None
    errors: list[dict[str, str]] | None = Field(
        default=None,
        description="every fault: pointer, detail, for those of a graph type and hint, and for those of a field fault "
        "(missing, unknown or invalid), hint (what was probably meant) and expected (the kind of value)",
    )
    node_errors: dict[str, Any] | None = Field(
        default=None,
        description="the faults of a graph as ComfyUI's POST /prompt words them: by node id {errors: [{type, message, "
        "details, extra_info}], dependent_outputs, class_type}",
    )


OPERATIONS = (
    *jobs.OPERATIONS,
    *batches.OPERATIONS,
    *webhooks.OPERATIONS,
    *uploads.OPERATIONS,
    *workflows.OPERATIONS,
    *nodes.OPERATIONS,
    *system.OPERATIONS,
    *limits.OPERATIONS,
)
"""Every documented operation, in the order of the document."""

_ALWAYS = (
    "unauthorized",
    "insufficient-scope",
    "unknown-parameter",
    "too-many-requests",
    "storage-unavailable",
    "internal-error",
)
_KEYS = (
    "A key of `comfyui-modal keys create`. The role of an operation is the scope that its key needs: `jobs:read` "
    "to read, `jobs:write` for everything else; a key with `admin` has both."
)


def document() -> dict[str, Any]:
    """Return the whole document as JSON values."""
    models = sorted(_models().items(), key=lambda item: item[0].__name__)
    _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ComfyUI Modal API",
            "version": __version__,
            "description": "Run ComfyUI workflows on your own Modal account and bucket.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"api_key": {"type": "http", "scheme": "bearer", "description": _KEYS}},
        },
        "security": [{"api_key": []}],
    }


def _models() -> dict[type[BaseModel], JsonSchemaMode]:
    """Return the models of the document, each with the direction in which it travels."""
    # A response always has its fields with defaults; a request, and a problem, may lack them.
    modes: dict[type[BaseModel], JsonSchemaMode] = {ProblemView: "validation"}
    for operation in OPERATIONS:
        modes |= {model: "serialization" for _, model in operation.answers.values() if model is not None}
        if operation.request is not None:
            modes[operation.request] = "validation"
    return modes


def _operation(operation: Operation) -> dict[str, Any]:
    built: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": _answers(operation) | _refusals(operation),
    }
    if operation.parameters:
        built["parameters"] = [parameter.as_json() for parameter in operation.parameters]
    if operation.request is not None:
        content = {"schema": _ref(operation.request), "example": operation.example}
        built["requestBody"] = {"required": True, "content": {"application/json": content}}
    built["security"] = [] if operation.is_open else [{"api_key": [scope_for(operation.method)]}]
    return built


def _answers(operation: Operation) -> dict[str, Any]:
    built: dict[str, Any] = {}
    for status, (meaning, model) in operation.answers.items():
        built[str(status)] = {"description": meaning}
        if model is not None:
            built[str(status)]["content"] = {"application/json": {"schema": _ref(model)}}
    return built


def _refusals(operation: Operation) -> dict[str, Any]:
    """Return the problem responses by status, each with its possible types."""
    always = () if operation.is_open else _ALWAYS
    by_status: dict[int, list[problems.ProblemType]] = {}
    for slug in (*operation.refusals, *always):
        kind = problems.PROBLEM_TYPES[slug]
        by_status.setdefault(kind.status, []).append(kind)
    return {
        str(status): {
            "description": "; ".join(f"{kind.title} (`{kind.slug}`)" for kind in kinds),
            "content": {problems.MEDIA_TYPE: {"schema": _ref(ProblemView)}},
        }
        for status, kinds in sorted(by_status.items())
    }


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
