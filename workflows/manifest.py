"""A named workflow: its graph, and the inputs that can be set, with names and types of their own.

The default of an input is the graph's own value. An input file has no default: every job must bring it.
"""

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from workflows.errors import WorkflowError
from workflows.graph import parse_graph

InputType = Literal["string", "integer", "number", "boolean", "choice", "image", "video", "audio"]
MEDIA: tuple[InputType, ...] = ("image", "video", "audio")
NAME = r"[a-z0-9][a-z0-9_-]{0,63}"


class BadWorkflow(ValueError):
    """A manifest or its graph is invalid. The message names the file and the field."""


class NamedInput(BaseModel):
    """An input of a named workflow, set at all `places`, each NODE.FIELD. `min` and `max` are inclusive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: InputType
    places: tuple[str, ...] = Field(min_length=1)
    description: str = ""
    min: float | None = None
    max: float | None = None
    choices: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _limits_fit_the_type(self) -> "NamedInput":
        if (self.min is not None or self.max is not None) and self.type not in ("integer", "number"):
            raise ValueError(f"min and max are for numbers, not for {self.type}")
        if (self.type == "choice") != bool(self.choices):
            raise ValueError("choices belong to the type choice")
        return self

    @property
    def is_file(self) -> bool:
        return self.type in MEDIA

    def targets(self) -> Iterator[tuple[str, str]]:
        """Yield the node id and field of each place."""
        for place in self.places:
            node, _, field = place.partition(".")
            yield node, field


class Cap(BaseModel):
    """The largest product of several inputs, such as `width`, `height` and `frames`: the pixels of a video."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[str, ...] = Field(min_length=2)
    product: int = Field(gt=0)

    def excess(self, values: Mapping[str, float]) -> str | None:
        """Return why these values exceed the cap, or None if they do not."""
        # Exact, because neither the product nor each integer needs to be in the range of a float, and of the decimals
        # that were written: the float 1.1 is a little more than 1.1.
        found = math.prod(Fraction(str(values[name])) for name in self.inputs)
        if found <= self.product:
            return None
        shown = round(found) if found < 10**18 else "more than 10^18"
        return f"{' × '.join(self.inputs)} is {shown}, at most {self.product} is allowed: lower one of them"


class Manifest(BaseModel):
    """The `.toml` file next to a graph. `models` are "folder/file", `nodes` are packs as in infra/nodes.toml.

    `vram_gb` and `ram_gb` are a worker's requirements, `seconds` is the run time where it is known. `timeout_s` is the
    run-time limit of a job that names none; `cap` refuses a job that could not end within it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    description: str = ""
    graph: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="a file in the manifest's folder")
    inputs: dict[str, NamedInput] = Field(default_factory=dict)
    models: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    vram_gb: float | None = Field(None, gt=0)
    ram_gb: float | None = Field(None, gt=0)
    timeout_s: int | None = Field(None, gt=0)
    cap: Cap | None = None
    seconds: float | None = Field(None, gt=0)


@dataclass(frozen=True, slots=True)
class NamedWorkflow:
    """A named workflow. `graph` is in API format and shared between jobs: callers must copy it before a change."""

    name: str
    manifest: Manifest
    graph: Mapping[str, Any]

    @property
    def needs_files(self) -> bool:
        return any(named.is_file for named in self.manifest.inputs.values())

    def default(self, input_name: str) -> Any:
        """Return the graph's own value of an input, or None for a medium."""
        named = self.manifest.inputs[input_name]
        if named.is_file:
            return None
        node, field = next(named.targets())
        return self.graph[node]["inputs"][field]


def parse_manifest(name: str, text: str) -> Manifest:
    """Parse a manifest. Raises `BadWorkflow`."""
    try:
        return Manifest.model_validate(tomllib.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadWorkflow(f"{name}.toml: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadWorkflow(f"{name}.toml: {error}") from error


def named_workflow(name: str, manifest: Manifest, graph_text: str) -> NamedWorkflow:
    """Combine a manifest with its graph. Raises `BadWorkflow` if they do not match."""
    if not re.fullmatch(NAME, name):
        raise BadWorkflow(f"{name}.toml: a name is small letters, digits, - and _")
    try:
        graph = json.loads(graph_text)
        parse_graph(graph)
    except (WorkflowError, ValueError) as error:
        raise BadWorkflow(f"{manifest.graph}: {error}") from error
    for input_name, named in manifest.inputs.items():
        for node, field in named.targets():
            _check_place(f"{name}.toml: inputs.{input_name}: {node}.{field}", graph, node, field, named)
    workflow = NamedWorkflow(name, manifest, graph)
    _check_cap(workflow)
    return workflow


def _check_cap(workflow: NamedWorkflow) -> None:
    cap, inputs = workflow.manifest.cap, workflow.manifest.inputs
    if cap is None:
        return
    for name in cap.inputs:
        if name not in inputs or inputs[name].type not in ("integer", "number"):
            raise BadWorkflow(f"{workflow.name}.toml: cap.inputs: {name} is no input that is a number")
    if excess := cap.excess({name: workflow.default(name) for name in cap.inputs}):
        raise BadWorkflow(f"{workflow.name}.toml: cap.product: the graph's own {excess}")


def _check_place(where: str, graph: Mapping[str, Any], node: str, field: str, named: NamedInput) -> None:
    inputs = graph.get(node, {}).get("inputs", {})
    if field not in inputs:
        raise BadWorkflow(f"{where}: the graph has no such input")
    if isinstance(inputs[field], list):
        raise BadWorkflow(f"{where}: a link leads there, and a value would cut it")
    if not named.is_file and not _fits(inputs[field], named):
        raise BadWorkflow(f"{where}: the graph's own value {inputs[field]!r} is no {named.type} within the limits")


def _fits(value: Any, named: NamedInput) -> bool:
    if named.type == "choice":
        return value in named.choices
    if named.type in ("string", "boolean"):
        return isinstance(value, str if named.type == "string" else bool)
    # In Python a bool is an int.
    if isinstance(value, bool) or not isinstance(value, int if named.type == "integer" else (int, float)):
        return False
    return (named.min is None or value >= named.min) and (named.max is None or value <= named.max)
