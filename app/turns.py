"""Lets a few requests of each tenant begin in each iteration of the event loop.

Requests that are answered at once, such as a public document or a refusal, cost little each. But those of many busy
connections arrive together, and an iteration that begins them all delays every other request at each of its steps.
"""

import asyncio
from collections import deque

AT_ONCE = 2
"""Requests of a group that begin in one iteration."""
MOST_WAITING = 400
"""Requests of a group that wait for their turn. Each holds its connection and what has arrived of its body, also when
its client has gone: a body that is long is not read further, and only a read tells that a client has gone."""


class NoTurn(Exception):
    """`MOST_WAITING` requests of the group wait already."""


class LoopTurns:
    """An instance belongs to one event loop. A group without waiting requests costs one callback per iteration."""

    def __init__(self, at_once: int = AT_ONCE, *, most_waiting: int = MOST_WAITING) -> None:
        self._at_once = at_once
        self._most_waiting = most_waiting
        self._begun: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def is_idle(self) -> bool:
        return not self._begun and not self._waiting

    async def turn(self, group: str) -> None:
        """Return at once if few other requests of the group have begun in this iteration, else in a later one.

        Raises `NoTurn`.
        """
        loop = asyncio.get_running_loop()
        begun = self._begun.get(group)
        if begun is None:
            # A callback runs in the next iteration. It wakes waiting requests, or ends the count if there are none.
            loop.call_soon(self._pass_on, group)
        if begun is None or begun < self._at_once:
            self._begun[group] = 1 + (begun or 0)
            return
        waiting = self._waiting.setdefault(group, deque())
        if len(waiting) >= self._most_waiting:
            raise NoTurn
        turn = loop.create_future()
        waiting.append(turn)
        await turn

    def _pass_on(self, group: str) -> None:
        """Begin the waiting requests of the group for which there is a turn in the next iteration."""
        begun, queue = 0, self._waiting.get(group, deque())
        while queue and begun < self._at_once:
            turn = queue.popleft()
            if not turn.done():  # the client of a cancelled one has disconnected
                turn.set_result(None)
                begun += 1
        if not queue:
            self._waiting.pop(group, None)
        if begun:
            # Requests that still wait are preceded by `at_once` others, so a new request cannot overtake them.
            self._begun[group] = begun
            asyncio.get_running_loop().call_soon(self._pass_on, group)
        else:
            del self._begun[group]
