"""The base class of stored JSON records, and the function that parses them."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from storage.errors import RecordUnreadable

LONGEST_ENGINE_TEXT = 512


def _cut(text: str) -> str:
    return text[:LONGEST_ENGINE_TEXT]


EngineText = Annotated[str, AfterValidator(_cut)]
"""A name or an id that an engine reports. A node's code can make it report anything, and every GET, list and event
reads whole records, so it is cut."""


class Model(BaseModel):
    """Base of all stored JSON records."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Record = TypeVar("Record", bound=BaseModel)


def read_as(model: type[Record], key: str, body: bytes) -> Record:
    """Parse the record of `key`. Raises `RecordUnreadable`."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        # The error names the key and omits the content: a record may hold secrets.
        raise RecordUnreadable(f"{key} cannot be read by this version ({error.error_count()} errors)") from None
