"""The client's types are those of the API."""

from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from pydantic import BaseModel

from app.api.batches import BatchList, BatchView
from app.api.job_view import JobView
from app.api.jobs import JobList
from app.api.submissions import JobAccepted
from app.submission.request import JobOptions as JobOptionsOfTheApi
from comfyui_modal_client import AcceptedJob, Batch, BatchPage, Job, JobOptions, JobPage


def test_the_options_of_a_job_are_those_of_the_api() -> None:
    """`JobOptions` names each option that the API knows, and no other."""
    assert set(JobOptions.__annotations__) == set(JobOptionsOfTheApi.model_fields)


@pytest.mark.parametrize(
    ("typed", "model"),
    [
        (AcceptedJob, JobAccepted),
        (Job, JobView),
        (JobPage, JobList),
        (Batch, BatchView),
        (BatchPage, BatchList),
    ],
)
def test_the_types_of_answers_are_those_of_the_api(typed: Any, model: type[BaseModel]) -> None:
    """Each answer has the members of the API's own model, and so have the objects inside it."""
    assert members_of(typed) == members_of(model)


def members_of(kind: Any) -> Any:
    """Return the members of an object's type by name, each with its own members, or the name of a JSON type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: members_of(field.annotation) for name, field in kind.model_fields.items()}
    if is_typeddict(kind):
        return {name: members_of(inner) for name, inner in get_type_hints(kind).items()}
    if (origin := get_origin(kind)) is Annotated:
        return members_of(get_args(kind)[0])
    if origin in (list, dict):
        return (origin, members_of(get_args(kind)[-1]))
    if origin in (Union, UnionType):
        parts = [members_of(one) for one in get_args(kind) if one is not NoneType]
        return (parts[0] if len({str(one) for one in parts}) == 1 else "str", NoneType in get_args(kind))
    if kind is datetime or origin is Literal or (isinstance(kind, type) and issubclass(kind, str)):
        return "str"  # times and enumerations are strings in JSON
    return kind
