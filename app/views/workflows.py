"""Converts named workflows to the models of responses: inputs, requirements, and whether each can run here."""

from typing import Any

from pydantic import Field

from app.wire.base import Answer
from workflows.catalogue import Catalogue
from workflows.graph import parse_graph
from workflows.manifest import InputType, NamedWorkflow

LACKING = frozenset({"unknown-node-class", "missing-model"})


class WorkflowInput(Answer):
    """An input, by the name that POST /v1/workflows/{name}/jobs takes."""

    name: str
    type: InputType = Field(description="image, video and audio take {data | url | upload_id, filename}")
    description: str
    required: bool
    default: Any = Field(description="what is used without a value")
    min: float | None
    max: float | None
    choices: list[str]


class WorkflowCap(Answer):
    """What some inputs may come to together."""

    inputs: list[str]
    product: int = Field(description="their product is at most this")


class WorkflowRow(Answer):
    """A workflow that can be run by name."""

    name: str
    title: str
    description: str
    inputs: list[WorkflowInput]
    models: list[str] = Field(description="folder/file")
    nodes: list[str] = Field(description="packs of custom nodes")
    vram_gb: float | None = Field(description="GPU memory that it needs, where that is known")
    ram_gb: float | None = Field(description="memory that it needs, where that is known")
    timeout_s: int | None = Field(description="run-time limit of a job that names none; null: the deployment's")
    cap: WorkflowCap | None
    seconds: float | None = Field(description="how long a run takes, where that is known")
    runnable: bool | None = Field(description="whether the default pool has all it needs; null while that is not known")
    missing: list[str] = Field(description="what it has not")


class WorkflowList(Answer):
    """All that can be run by name."""

    workflows: list[WorkflowRow]


class WorkflowView(WorkflowRow):
    """One of them, with its graph."""

    workflow: dict[str, Any] = Field(description="ComfyUI's API-format graph")


def workflow_row(workflow: NamedWorkflow, catalogue: Catalogue) -> WorkflowRow:
    return WorkflowRow(**_row(workflow, catalogue))


def workflow_view(workflow: NamedWorkflow, catalogue: Catalogue) -> WorkflowView:
    return WorkflowView(**_row(workflow, catalogue), workflow=dict(workflow.graph))


def _row(workflow: NamedWorkflow, catalogue: Catalogue) -> dict[str, Any]:
    manifest, missing = workflow.manifest, _missing(workflow, catalogue)
    return {
        "name": workflow.name,
        "title": manifest.title,
        "description": manifest.description,
        "inputs": [_input(workflow, name) for name in manifest.inputs],
        "models": list(manifest.models),
        "nodes": list(manifest.nodes),
        "vram_gb": manifest.vram_gb,
        "ram_gb": manifest.ram_gb,
        "timeout_s": manifest.timeout_s,
        "cap": None if manifest.cap is None else WorkflowCap(**manifest.cap.model_dump()),
        "seconds": manifest.seconds,
        "runnable": not missing if catalogue.is_known else None,
        "missing": missing,
    }


def _input(workflow: NamedWorkflow, name: str) -> WorkflowInput:
    named = workflow.manifest.inputs[name]
    return WorkflowInput(
        name=name,
        type=named.type,
        description=named.description,
        required=named.is_medium,
        default=workflow.default(name),
        min=named.min,
        max=named.max,
        choices=list(named.choices),
    )


def _missing(workflow: NamedWorkflow, catalogue: Catalogue) -> list[str]:
    """Return the messages of missing node classes and models, which a job cannot bring along."""
    faults = catalogue.judge(parse_graph(workflow.graph)).faults
    return list(dict.fromkeys(fault.message for fault in faults if fault.code in LACKING))
