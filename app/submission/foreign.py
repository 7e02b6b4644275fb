"""Reads bodies in the forms of other APIs: a bare graph, ComfyUI's POST /prompt, RunPod's `input`.

Only a form that can mean nothing else is read. Pointers of refusals lead into the body as it was sent.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from app.problems import Problem
from workflows.graph import is_editor_file, is_graph

Moves = Mapping[str, str]
"""Pointers into this API's form and where the same values stand in the body as it was sent."""


@dataclass(frozen=True, slots=True)
class Form:
    """A submission in this API's form."""

    document: Any
    moves: Moves = field(default_factory=dict)


@contextmanager
def relocated(moves: Moves) -> Iterator[None]:
    """Let problems that are raised inside point into the body as it was sent."""
    try:
        yield
    except Problem as problem:
        problem.relocate(moves)
        raise


def job_form(document: Any) -> Form:
    """Return the body of a job, or of a batch with one graph, in this API's form. Others are returned unchanged."""
    if not isinstance(document, dict):
        return Form(document)
    if "workflow" in document:
        return _of_the_editor(document)
    if is_editor_file(document) or (is_graph(document) and all(isinstance(node, dict) for node in document.values())):
        return Form({"workflow": document}, {"/workflow": ""})
    rest = dict(document)
    if _is_workflow(prompt := rest.pop("prompt", None)):
        rest.pop("client_id", None)  # ComfyUI sends the events of the job to this WebSocket; there is none here
        return Form(rest | {"workflow": prompt}, {"/workflow": "/prompt"})
    inner = document.get("input")
    if isinstance(inner, dict) and "workflow" in inner and not inner.keys() & document.keys():
        rest = {name: value for name, value in document.items() if name != "input"}
        return Form(rest | inner, {f"/{name}": f"/input/{name}" for name in inner})
    return Form(document)


def batch_form(document: Any, *, most_jobs: int) -> Form:
    """Return the body of a batch in this API's form; each of its `jobs` may have another one.

    A body with more than `most_jobs`, which will be refused, is returned unchanged.
    """
    if not isinstance(document, dict) or not isinstance(document.get("jobs"), list):
        return job_form(document)
    if len(document["jobs"]) > most_jobs:
        return Form(document)
    jobs = [job_form(job) for job in document["jobs"]]
    moves = {
        f"/jobs/{position}{ours}": f"/jobs/{position}{sent}"
        for position, job in enumerate(jobs)
        for ours, sent in job.moves.items()
    }
    return Form(document | {"jobs": [job.document for job in jobs]}, moves)


def _of_the_editor(document: dict[str, Any]) -> Form:
    """What the editor's graphToPrompt() returns has the editor's file as `workflow`, and the graph as `output`."""
    if is_editor_file(document["workflow"]) and is_graph(document.get("output")):
        rest = {name: value for name, value in document.items() if name != "output"}
        return Form(rest | {"workflow": document["output"]}, {"/workflow": "/output"})
    return Form(document)


def _is_workflow(value: Any) -> bool:
    return is_graph(value) or is_editor_file(value)
