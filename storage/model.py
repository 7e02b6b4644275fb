"""The base of what is stored as JSON, and how it is read again."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.errors import RecordUnreadable


class Model(BaseModel):
    """Base of what is stored as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Record = TypeVar("Record", bound=BaseModel)


def read_as(model: type[Record], key: str, body: bytes) -> Record:
    """The record that stands under `key`. `RecordUnreadable` says where, and not what: a record may hold secrets."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RecordUnreadable(f"{key} cannot be read by this version ({error.error_count()} errors)") from None
