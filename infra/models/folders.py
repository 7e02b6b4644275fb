"""The places of models: a local folder or the deployment's volume. Both support the same commands.

A command on the volume runs in a container, which forwards the progress of downloads as a stream: one step for each
model and interval.
"""

import asyncio
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypedDict, TypeVar

from pydantic import SecretStr

from infra.cloud.modal_cloud import ModalCloud
from infra.models.download import Downloader
from infra.models.manifest import Model
from infra.models.sync import Command, Found, ModelFolder, OnProgress
from infra.settings import HubSettings

T = TypeVar("T")

INTERVAL_S = 1.0


def perform(
    command: Command, models: Sequence[Model], on_progress: OnProgress, *, folder: Path | None, environment: str | None
) -> list[Found]:
    """Run a command on a local folder or, if it is None, on the volume in a Modal environment."""
    if folder is not None:
        return model_folder(HubSettings().huggingface_token, folder).perform(command, models, on_progress)
    wanted = [model.model_dump(exclude_none=True) for model in models]
    # The deployed function runs the command, and reports its progress.
    found = asyncio.run(ModalCloud({}, environment).manage_models(command, wanted, on_progress))
    return [Found(**one) for one in found]


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
            is_over = bool(wait([working], interval_s).done)
            for name in list(newest):
                yield newest.pop(name)
        return working.result()
