"""Jobs of named workflows: converts typed inputs into an ordinary submission."""

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model, model_validator

from app.body import Place
from app.fields import RequestBody
from app.submission.foreign import Moves
from app.submission.request import InputValue, JobOptions, JobRequest, MediumSource
from workflows.errors import pointer
from workflows.manifest import Cap, NamedInput, NamedWorkflow

SUFFIXES = {"image": ".png", "video": ".mp4", "audio": ".wav"}
"""The suffix of a medium without a file name, by input type: loaders choose their decoder by the suffix."""


LONG_IN_NAMED_JOBS: tuple[Place, ...] = (("inputs", "*", "data"), ("inputs", "*", "url"))
"""The members whose long strings stay spooled in a file."""

_SCHEMES = ("http://", "https://")

PLAIN: dict[str, type] = {"string": str, "boolean": bool, "integer": int, "number": float}


class MediumInput(RequestBody):
    """A file for an input of a named workflow, as an object with exactly one source, or as its URL."""

    kind: ClassVar[str] = 'a file: its URL, or {"url": …}, {"upload_id": …}, {"asset_id": …} or {"data": …}'

    filename: str | None = Field(None, description="as the node sees it; its suffix matters", examples=["cat.png"])
    data: str | None = Field(None, description="the bytes in base64, at most 50 MB")
    url: str | None = Field(None, description="a public URL of the bytes, at most 50 MB")
    upload_id: str | None = Field(None, description="an upload of POST /v1/uploads, at most 5 GiB")
    asset_id: str | None = Field(None, description="an asset: an upload, or another job's output by its `asset_id`")

    @model_validator(mode="before")
    @classmethod
    def _url_is_a_source(cls, value: Any) -> Any:
        # Only what can be nothing else: a bare name or base64 would be a guess.
        return {"url": value} if isinstance(value, str) and value.lower().startswith(_SCHEMES) else value


class NamedJobRequest(JobOptions):
    """What POST /v1/workflows/{name}/jobs takes. `media` come by `inputs`."""

    inputs: dict[str, Any] = Field(
        default_factory=dict,
        description="by the names that GET /v1/workflows/{name} lists; the others keep their default",
    )

    @model_validator(mode="after")
    def _media_have_names(self) -> "NamedJobRequest":
        if self.media:
            raise ValueError("media of a named workflow come as its inputs")
        return self


def request_model(workflow: NamedWorkflow) -> type[NamedJobRequest]:
    """Return `NamedJobRequest` with this workflow's inputs, each with its type and limits. Other names are refused."""
    cap = workflow.manifest.cap
    defaults = tuple((name, workflow.default(name)) for name in cap.inputs) if cap is not None else ()
    return _request_model(workflow.name, tuple(workflow.manifest.inputs.items()), cap, defaults)


@lru_cache(maxsize=256)
def _request_model(
    name: str, inputs: tuple[tuple[str, NamedInput], ...], cap: Cap | None, defaults: tuple[tuple[str, float], ...]
) -> type[NamedJobRequest]:
    """`defaults` are the graph's values of the capped inputs."""
    # Cached because pydantic takes milliseconds to build a model; the arguments are hashable parts of the manifest.
    fields: dict[str, Any] = {input_name: _field(named) for input_name, named in inputs}
    validators: dict[str, Any] = (
        {"_is_within_the_cap": model_validator(mode="after")(_capped(cap, dict(defaults)))} if cap else {}
    )
    inputs_model = create_model(f"Inputs of {name}", __base__=RequestBody, __validators__=validators, **fields)
    # An absent `inputs` is validated as an empty one, so that a refusal names the input that is missing.
    absent = Field(default_factory=dict, validate_default=True)
    return create_model(f"Job of {name}", __base__=NamedJobRequest, inputs=(inputs_model, absent))


def _capped(cap: Cap, defaults: dict[str, float]) -> Callable[[Any], Any]:
    def check(inputs: Any) -> Any:
        given = {name: getattr(inputs, name) for name in cap.inputs}
        # An omitted input runs with the graph's own value, which counts towards the cap as well.
        values = {name: defaults[name] if value is None else value for name, value in given.items()}
        if excess := cap.excess(values):
            raise ValueError(excess)
        return inputs

    return check


def _field(named: NamedInput) -> tuple[Any, Any]:
    if named.is_file:
        return MediumInput, ...
    if named.type == "choice":
        return Literal[named.choices] | None, None
    plain = PLAIN[named.type]
    return Annotated[plain, Field(strict=True, ge=named.min, le=named.max)] | None, None


def job_request(workflow: NamedWorkflow, named: NamedJobRequest, *, max_timeout_s: int) -> JobRequest:
    """Convert to a submission of the graph: each value set at all its places, each file under its name.

    A job without `timeout_s` gets the workflow's, capped at `max_timeout_s`.
    """
    values: list[InputValue] = []
    media: list[MediumSource] = []
    for name, given in dict(named.inputs).items():  # pydantic: iterating over a model yields its fields
        if given is None:
            continue
        value = given
        if isinstance(given, MediumInput):
            media.append(_medium(name, workflow.manifest.inputs[name], given))
            value = media[-1].name
        targets = workflow.manifest.inputs[name].targets()
        values += [InputValue(node=node, field=field, value=value) for node, field in targets]
    options = {option: getattr(named, option) for option in JobOptions.model_fields}
    if named.timeout_s is None and workflow.manifest.timeout_s is not None:
        options["timeout_s"] = min(workflow.manifest.timeout_s, max_timeout_s)
    return JobRequest(**options | {"workflow": dict(workflow.graph), "inputs": values, "media": media})


def input_pointers(workflow: NamedWorkflow, named: NamedJobRequest, document: Any) -> Moves:
    """Return where the values and files of `job_request` stand in the body, for `Problem.relocate`."""
    moves: dict[str, str] = {}
    values = files = 0
    for name, given in dict(named.inputs).items():
        if given is None:
            continue
        where = pointer("inputs", name)
        if isinstance(given, MediumInput):
            if isinstance(document["inputs"][name], str):  # the URL alone
                moves[f"/media/{files}/url"] = where
            moves |= {f"/media/{files}/name": f"{where}/filename", f"/media/{files}": where}
            files += 1
        for _ in workflow.manifest.inputs[name].targets():
            moves[f"/inputs/{values}/value"] = where
            values += 1
    return moves


def _medium(name: str, named: NamedInput, value: MediumInput) -> MediumSource:
    filename = value.filename or f"{name}{SUFFIXES[named.type]}"
    sources = value.model_dump(exclude={"filename"})
    return MediumSource(name=filename, **sources)
