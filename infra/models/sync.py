"""Synchronises a folder of models with its manifest: missing files are downloaded, other files stay unchanged.

The lock file in the folder records what the first sync saw (trust on first use), and every later sync enforces it. A
file is trusted if the lock has its name with this size; a file that is not in the lock is hashed first. An error with
one file changes neither it nor the others.
"""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, TypeVar, assert_never

from pydantic import BaseModel, ConfigDict, SecretStr, TypeAdapter, ValidationError

from infra.models.download import CHUNK_BYTES, Downloader, ModelRefused
from infra.models.manifest import Model

T = TypeVar("T")

LOCK_NAME = "models.lock.json"
INTERVAL_S = 1.0
"""How often the progress of a model is reported."""


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
            fault = error.errors()[0]["msg"]
            raise BadLock(f"{self._path}: {fault}; repair it, or remove it to trust the files again") from error

    def put(self, name: str, entry: Locked) -> None:
        with self._writing:  # models are synced in several threads, and each write replaces the whole file
            entries = self.read() | {name: entry}
            document = {name: entries[name].model_dump(exclude_none=True) for name in sorted(entries)}
            draft = self._path.with_name(LOCK_NAME + ".part")
            with draft.open("w") as file:
                json.dump(document, file, indent=1)
                file.flush()
                os.fsync(file.fileno())  # before the rename, or a crash could leave an empty lock
            draft.replace(self._path)


AT_ONCE = 4

Command = Literal["sync", "plan", "verify"]
State = Literal["present", "downloaded", "missing", "wrong", "failed"]
OnProgress = Callable[[str, int, int | None], None]
"""Called with a model's name, its bytes on disk, and its size if known."""


@dataclass(frozen=True, slots=True)
class Found:
    """The state of one model. `detail` describes a problem, if there is one."""

    name: str
    state: State
    size_bytes: int | None = None
    sha256: str | None = None
    detail: str = ""

    @property
    def is_good(self) -> bool:
        return self.state in ("present", "downloaded")


class ModelFolder:
    """ComfyUI's models on this disk, by kind."""

    def __init__(self, folder: Path, downloader: Downloader) -> None:
        self._folder = folder
        self._lock = Lock(folder)
        self._downloader = downloader

    def perform(self, command: Command, models: Sequence[Model], on_progress: OnProgress) -> list[Found]:
        match command:
            case "sync":
                return self.sync(models, on_progress)
            case "plan":
                return self.plan(models)
            case "verify":
                return self.verify(models, on_progress)
            case _:
                assert_never(command)

    def sync(self, models: Sequence[Model], on_progress: OnProgress = lambda *_: None) -> list[Found]:
        """Download the missing models. Raise `BadLock`; a fault of a single model is in its `Found`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        locked = self._lock.read()
        if refusal := self._refusal(models):
            return [Found(model.name, "failed", detail=refusal) for model in models]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda model: self._synced(model, locked.get(model.name), on_progress), models))

    def plan(self, models: Sequence[Model]) -> list[Found]:
        """Return what a sync would find, without hashing. It would download the `missing` models."""
        locked = self._lock.read()
        return [self._seen(model, locked.get(model.name)) for model in models]

    def verify(self, models: Sequence[Model], on_progress: OnProgress = lambda *_: None) -> list[Found]:
        """Hash every file and compare it with the manifest and the lock."""
        locked = self._lock.read()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda model: self._verified(model, locked.get(model.name), on_progress), models))

    def _seen(self, model: Model, locked: Locked | None) -> Found:
        path = self._folder / model.name
        if not path.is_file():
            return Found(model.name, "missing", model.size_bytes)
        size = path.stat().st_size
        expected = locked.size_bytes if locked is not None else model.size_bytes
        if expected is not None and size != expected:
            return Found(model.name, "wrong", size, detail=f"it has {size} bytes instead of {expected}")
        return Found(model.name, "present", size, None if locked is None else locked.sha256)

    def _synced(self, model: Model, locked: Locked | None, on_progress: OnProgress) -> Found:
        seen = self._seen(model, locked)
        if seen.state == "present" and locked is not None and _agree(model, locked) is None:
            return seen
        try:
            if seen.state == "missing":
                return self._downloaded(model, locked, on_progress)
            verified = self._verified(model, locked, on_progress)
            if verified.state == "present" and locked is None:
                self._lock.put(model.name, Locked(sha256=verified.sha256 or "", size_bytes=verified.size_bytes or 0))
        except (ModelRefused, OSError) as error:
            return Found(model.name, "failed", detail=str(error))
        return verified

    def _downloaded(self, model: Model, locked: Locked | None, on_progress: OnProgress) -> Found:
        path = self._folder / model.name
        part = path.with_name(path.name + ".part")
        arrived = self._downloader.fetch(model, part, lambda have: on_progress(model.name, have, model.size_bytes))
        seen = Locked(sha256=arrived.sha256, size_bytes=arrived.size_bytes, revision=arrived.revision)
        etag = part.with_name(part.name + ".etag")
        if (objection := _objection(model, locked, seen)) is not None:
            part.unlink()
            etag.unlink(missing_ok=True)
            raise ModelRefused(f"{model.name}: {objection}")
        # The lock first: a crash here leaves a part that the next sync completes, never an unchecked file.
        self._lock.put(model.name, locked or seen)
        part.replace(path)
        etag.unlink(missing_ok=True)
        return Found(model.name, "downloaded", seen.size_bytes, seen.sha256)

    def _verified(self, model: Model, locked: Locked | None, on_progress: OnProgress) -> Found:
        path = self._folder / model.name
        if not path.is_file():
            return Found(model.name, "missing", model.size_bytes)
        size = path.stat().st_size
        digest, have = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                have += len(chunk)
                on_progress(model.name, have, size)
        found = Locked(sha256=digest.hexdigest(), size_bytes=size)
        objection = _objection(model, locked, found)
        state: State = "present" if objection is None else "wrong"
        return Found(model.name, state, size, found.sha256, objection or "")

    def _refusal(self, models: Sequence[Model]) -> str | None:
        """Return why the disk lacks space for the missing models, as far as their sizes are known."""
        missing = sum(model.size_bytes or 0 for model in models if not (self._folder / model.name).exists())
        free = shutil.disk_usage(self._folder).free
        return None if missing <= free else f"{missing} bytes are to come, and {free} are free"


def _objection(model: Model, locked: Locked | None, found: Locked) -> str | None:
    """Return why this is not the expected file. The manifest takes precedence over the lock."""
    if locked is not None and (conflict := _agree(model, locked)) is not None:
        return conflict
    if model.sha256 is not None and found.sha256 != model.sha256:
        return f"its sha256 is {found.sha256}, the {model.named_by} says {model.sha256}"
    if model.size_bytes is not None and found.size_bytes != model.size_bytes:
        return f"it has {found.size_bytes} bytes, the {model.named_by} says {model.size_bytes}"
    if locked is not None and found.sha256 != locked.sha256:
        return f"its sha256 is {found.sha256}, the first sync saw {locked.sha256}"
    return None


def _agree(model: Model, locked: Locked) -> str | None:
    if model.sha256 is not None and model.sha256 != locked.sha256:
        says = f"the {model.named_by} says sha256 {model.sha256}"
        return f"{says}, the first sync saw {locked.sha256}: one of both is wrong"
    return None


def model_folder(token: SecretStr | None, folder: Path) -> ModelFolder:
    return ModelFolder(folder, Downloader(token=token.get_secret_value() if token is not None else None))


class Step(TypedDict):
    """Progress of a model: its name, its bytes on disk, and its size if known."""

    name: str
    have: int
    total: int | None


def streamed(work: Callable[[OnProgress], T], interval_s: float = INTERVAL_S) -> Generator[Step, None, T]:
    """Run `work` in a thread and yield the newest step of each model. Return or raise what `work` does."""
    newest: dict[str, Step] = {}

    def note(name: str, have: int, total: int | None) -> None:
        newest[name] = Step(name=name, have=have, total=total)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work, note)
        is_over = False
        while not is_over:
            # Asked before the steps are read, so that the last ones are yielded too.
            is_over = bool(wait([working], interval_s).done)
            # A copy of the names, because the thread adds some meanwhile.
            for name in list(newest):
                yield newest.pop(name)
        return working.result()
