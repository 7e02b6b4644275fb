"""An engine's output: the newest lines, and the number of all lines."""

from collections import deque


class EngineLog:
    """Keeps the newest `limit` lines."""

    def __init__(self, limit: int) -> None:
        self._lines: deque[str] = deque(maxlen=limit)
        self._position = 0

    @property
    def position(self) -> int:
        """The number of lines so far, including those before restarts."""
        return self._position

    def append(self, line: str) -> None:
        self._lines.append(line)
        self._position += 1

    def tail(self, lines: int) -> list[str]:
        return list(self._lines)[-lines:]

    def since(self, position: int) -> list[str]:
        """Return the lines after that position that are still kept."""
        wanted = min(self._position - position, len(self._lines))
        return list(self._lines)[len(self._lines) - wanted :]
