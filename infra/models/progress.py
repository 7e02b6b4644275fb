"""Progress of downloads as a stream: one step for each model and interval, which a container can forward."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypedDict, TypeVar

from infra.models.sync import OnProgress

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
