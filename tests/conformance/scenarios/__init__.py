"""What is done to an engine. Names are the recordings' names; a scenario does what its recording did."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.conformance.traffic import Traffic

Play = Callable[[Traffic], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`own_nodes`: needs nodes made for tests. `varying`: it acts in the midst of a run, so that how far the run came
    is left open. `http_only`: what its sockets hear is no part of it."""

    play: Play
    own_nodes: bool = False
    varying: bool = False
    http_only: bool = False

    @property
    def name(self) -> str:
        return self.play.__name__


class Book:
    """Collects the scenarios of one module, by decoration."""

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
