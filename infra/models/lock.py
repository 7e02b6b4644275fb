"""The lock file in the models' folder: trust on first use, enforced at every later sync."""

import json
import os
import threading
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

LOCK_NAME = "models.lock.json"


class Locked(BaseModel):
    """The locked state of a model. `revision` is the source's commit, if it names one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: str
    size_bytes: int
    revision: str | None = None


class BadLock(ValueError):
    """The lock is unreadable. It is never recreated automatically, because what it enforces would be lost."""


_Entries = TypeAdapter(dict[str, Locked])


class Lock:
    """The lock of a folder, by the models' names. Every write replaces the file atomically."""

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
