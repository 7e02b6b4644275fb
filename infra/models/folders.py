"""The places of models: a local folder or the deployment's volume. Both support the same commands.

A command on the volume runs in a container, which forwards the progress of downloads as a stream: one step for each
model and interval.
"""

import asyncio
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeVar

from pydantic import SecretStr

from infra.cloud.modal_cloud import ModalCloud
from infra.models.download import Downloader
from infra.models.manifest import Model
from infra.models.sync import Found, ModelFolder, OnProgress
from infra.settings import HubSettings


class Models(Protocol):
    """A place of models. The commands `sync`, `plan` and `verify` are those of `ModelFolder`."""

    def perform(self, command: str, models: Sequence[Model], on_progress: OnProgress) -> list[Found]: ...


class LocalModels:
    def __init__(self, folder: ModelFolder) -> None:
        self._folder = folder

    def perform(self, command: str, models: Sequence[Model], on_progress: OnProgress) -> list[Found]:
        return perform(command, models, self._folder, on_progress)


class VolumeModels:
    """The deployment's volume. The deployed function runs the commands and reports progress."""

    def __init__(self, cloud: ModalCloud) -> None:
        self._cloud = cloud

    def perform(self, command: str, models: Sequence[Model], on_progress: OnProgress) -> list[Found]:
        wanted = [model.model_dump(exclude_none=True) for model in models]
        answer: list[dict[str, Any]] = asyncio.run(self._cloud.manage_models(command, wanted, on_progress))
        return [Found(**one) for one in answer]


def models_at(folder: Path | None, environment: str | None) -> Models:
    """Return a local folder or, if it is None, the volume in a Modal environment."""
    if folder is None:
        return VolumeModels(ModalCloud({}, environment))
    return LocalModels(model_folder(HubSettings().huggingface_token, folder))


def model_folder(token: SecretStr | None, folder: Path) -> ModelFolder:
    return ModelFolder(folder, Downloader(token=token.get_secret_value() if token is not None else None))


def perform(
    command: str, models: Sequence[Model], folder: ModelFolder, on_progress: OnProgress = lambda *_: None
) -> list[Found]:
    """Run a command on a folder. Raise ValueError for an unknown one."""
    commands: dict[str, Callable[[], list[Found]]] = {
        "sync": lambda: folder.sync(models, on_progress),
        "plan": lambda: folder.plan(models),
        "verify": lambda: folder.verify(models, on_progress),
    }
    if command not in commands:
        raise ValueError(f"no command {command!r}: there are {', '.join(commands)}")
    return commands[command]()


T = TypeVar("T")

INTERVAL_S = 1.0


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
            is_over = bool(wait([working], interval_s).done)
            for name in list(newest):
                yield newest.pop(name)
        return working.result()
