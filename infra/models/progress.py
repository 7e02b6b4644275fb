"""How far a download is, as a stream: what its threads tell comes out one step a model and interval, so that a
container can send it on."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypedDict, TypeVar

from infra.models.sync import OnProgress

T = TypeVar("T")

INTERVAL_S = 1.0


class Step(TypedDict):
    """A model's name, its bytes that are here, and how many there are, if that is known."""

    name: str
    have: int
    total: int | None


def streamed(work: Callable[[OnProgress], T], interval_s: float = INTERVAL_S) -> Generator[Step, None, T]:
    """Runs `work` in a thread, and yields the newest step of each model. Returns, or raises, what `work` does."""
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
