"""What the first sync of each model saw: trusted then, enforced ever after. Lies beside the models."""

import json
import os
import threading
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

LOCK_NAME = "models.lock.json"


class Locked(BaseModel):
    """`revision`: the commit that the source named, where it names one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: str
    size_bytes: int
    revision: str | None = None


class BadLock(ValueError):
    """The lock cannot be read. It is not made anew by itself: what it enforced would be forgotten."""


_Entries = TypeAdapter(dict[str, Locked])


class Lock:
    """By the models' names. Written as a whole, atomically."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._writing = threading.Lock()

    def read(self) -> dict[str, Locked]:
        try:
            return _Entries.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValidationError as error:
            raise BadLock(f"{self._path}: {error.errors()[0]['msg']}; mend it, or remove it to trust anew") from error

    def put(self, name: str, entry: Locked) -> None:
        with self._writing:
            entries = self.read() | {name: entry}
            document = {name: entries[name].model_dump(exclude_none=True) for name in sorted(entries)}
            draft = self._path.with_name(LOCK_NAME + ".part")
            with draft.open("w") as file:
                json.dump(document, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
