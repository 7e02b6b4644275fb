"""Builds the OpenAPI 3.1 document from the operations of the API and their models.

`docs/reference/openapi.json` is this document, committed; a test compares it with the code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from app import __version__, problems
from app.api import (
    batches,
    conversion,
    inspection,
    job_events,
    jobs,
    limits,
    nodes,
    submissions,
    system,
    tenant_events,
    uploads,
    webhooks,
    workflows,
)
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


@dataclass(frozen=True, slots=True)
class Group:
    """Operations that the document shows together. `guide` is the page of docs/ that explains them."""

    name: str
    about: str
    guide: str
    operations: Sequence[Operation]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "description": self.about, **_guide(self.guide)}


GROUPS = (
    Group(
        "Jobs",
        "Submit a graph, wait for its end, fetch its outputs, or cancel it.",
        "tutorial/first-feature",
        (*submissions.OPERATIONS, *jobs.OPERATIONS, *job_events.OPERATIONS, *tenant_events.OPERATIONS),
    ),
    Group(
        "Batches",
        "Submit up to 1,000 jobs in one request, all or none, and follow them together.",
        "reference/http-api#batches",
        batches.OPERATIONS,
    ),
    Group(
        "Webhooks",
        "See how the events of your jobs were delivered, send them again, and verify them.",
        "how-to/webhooks",
        webhooks.OPERATIONS,
    ),
    Group(
        "Uploads",
        "Send large input files directly to the bucket, and use them in jobs.",
        "reference/http-api#uploads",
        uploads.OPERATIONS,
    ),
    Group(
        "Workflows",
        "Run a graph by its name, with typed inputs instead of nodes.",
        "how-to/workflows",
        (*conversion.OPERATIONS, *inspection.OPERATIONS, *workflows.OPERATIONS),
    ),
    Group(
        "Nodes and models",
        "See which node classes and model files this deployment has.",
        "how-to/models",
        nodes.OPERATIONS,
    ),
    Group(
        "System",
        "See what runs here, how much you may send, and whether this API can do its work.",
        "how-to/operations",
        (*system.OPERATIONS, *limits.OPERATIONS),
    ),
)

OPERATIONS = tuple(operation for group in GROUPS for operation in group.operations)
"""Every documented operation, in the order of the document."""

_ABOUT = (
    "Run ComfyUI workflows on your own Modal account and bucket. Press Authorize and enter your API key to try the "
    "operations here. Guides: [from a graph to a product feature](guides/tutorial/first-feature), "
    "[webhooks](guides/how-to/webhooks), [Python client](guides/how-to/client), "
    "[workflows by name](guides/how-to/workflows), [all operations with examples](guides/reference/http-api), "
    "[all refusals](guides/reference/problems), [keys, tenants and quotas](guides/explanation/security)."
)
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


def document(groups: Sequence[Group] = GROUPS) -> dict[str, Any]:
    """Return the document of these operations as JSON values."""
    models = sorted(_models(groups).items(), key=lambda item: item[0].__name__)
    _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")
    paths: dict[str, Any] = {}
    for group in groups:
        for operation in group.operations:
            paths.setdefault(operation.path, {})[operation.method] = _operation(operation, group.name)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ComfyUI Modal API",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [group.as_json() for group in groups],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"api_key": {"type": "http", "scheme": "bearer", "description": _KEYS}},
        },
        "security": [{"api_key": []}],
    }


def _models(groups: Sequence[Group]) -> dict[type[BaseModel], JsonSchemaMode]:
    """Return the models of the document, each with the direction in which it travels."""
    # A response always has its fields with defaults; a request, and a problem, may lack them.
    modes: dict[type[BaseModel], JsonSchemaMode] = {ProblemView: "validation"}
    for operation in (operation for group in groups for operation in group.operations):
        modes |= {model: "serialization" for _, model in operation.answers.values() if model is not None}
        modes |= dict.fromkeys(operation.events.values(), "serialization")
        if operation.request is not None:
            modes[operation.request] = "validation"
    return modes


def _guide(page: str) -> dict[str, Any]:
    # Relative to the document: `app.api.guides` serves the page.
    return {"externalDocs": {"description": "Guide", "url": f"guides/{page}"}}


def _operation(operation: Operation, tag: str) -> dict[str, Any]:
    built: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [tag],
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
        elif status == 200 and operation.events:
            # OpenAPI 3.1 cannot describe a stream, so the schema is that of the data of one event.
            schema = {"anyOf": [_ref(event) for event in operation.events.values()]}
            built[str(status)]["content"] = {"text/event-stream": {"schema": schema}}
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
