"""The actions on an engine. A scenario has the name of its recording and repeats its actions."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.conformance.traffic import Traffic

Play = Callable[[Traffic], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`own_nodes` needs test nodes. `varying` acts in the middle of a run, so that its progress is left open.
    `http_only` leaves out the messages of sockets."""

    play: Play
    own_nodes: bool = False
    varying: bool = False
    http_only: bool = False

    @property
    def name(self) -> str:
        return self.play.__name__


class Book:
    """Collects the scenarios of one module with a decorator."""

    def __init__(self) -> None:
        self.scenarios: list[Scenario] = []

    def add(self, *, own_nodes: bool = False, varying: bool = False, http_only: bool = False) -> Callable[[Play], Play]:
        def keep(play: Play) -> Play:
            self.scenarios.append(Scenario(play, own_nodes, varying, http_only))
            return play

        return keep


def all_scenarios() -> dict[str, Scenario]:
    from tests.conformance.scenarios import control, files, outputs, refusals, sockets

    books = (outputs.BOOK, refusals.BOOK, control.BOOK, sockets.BOOK, files.BOOK)
    return {scenario.name: scenario for book in books for scenario in book.scenarios}
