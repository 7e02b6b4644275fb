"""The port through which the operator's commands use the cloud. `ModalCloud` implements it; tests have their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

OnModel = Callable[[str, int, int | None], None]
"""Progress of a model: its name, its bytes on disk, and its size if known."""


class CloudError(Exception):
    """The cloud refused or failed. The message is its own."""


class CloudUnreachable(CloudError):
    """The cloud does not answer, or not without a valid token."""


class BadToken(CloudUnreachable):
    """The token is missing or invalid."""


class NotDeployed(CloudError):
    """The app, or a part of it, is not deployed."""


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """The current load of a pool: waiting tickets, running tickets, containers."""

    waiting: int
    running: int
    containers: int


@dataclass(frozen=True, slots=True)
class PoolScale:
    """The limits of a pool's autoscaler. `max_containers` None is no limit; `idle_s` None is unknown."""

    min_containers: int
    max_containers: int | None
    buffer_containers: int
    idle_s: int | None

    def __str__(self) -> str:
        high = "no limit" if self.max_containers is None else f"max {self.max_containers}"
        idle = "" if self.idle_s is None else f", idle for {self.idle_s} s"
        return f"min {self.min_containers}, {high}, buffer {self.buffer_containers}{idle}"


@dataclass(frozen=True, slots=True)
class ScaleChange:
    """Changes to a `PoolScale`. None leaves a value unchanged."""

    min_containers: int | None = None
    max_containers: int | None = None
    buffer_containers: int | None = None


class Cloud(Protocol):
    """The cloud. Every method may raise `CloudUnreachable` or another `CloudError`."""

    async def hello(self) -> None:
        """Reach the control plane with the token, or raise."""
        ...

    async def secret_has(self, name: str, variables: Sequence[str]) -> bool:
        """Return whether the secret exists and has all of these variables. Values cannot be read."""
        ...

    async def volume_exists(self, name: str) -> bool: ...

    async def has_function(self, name: str) -> bool: ...

    async def url(self, name: str) -> str:
        """Return the URL of a web function. Raise `NotDeployed` if there is none."""
        ...

    async def load(self, pool: str) -> PoolLoad: ...

    async def scale(self, pool: str) -> PoolScale: ...

    async def rescale(self, pool: str, change: ScaleChange) -> PoolScale:
        """Change the limits until the next deploy, and return the new ones."""
        ...

    async def check_image(self) -> list[str]:
        """Start the deployed engine without a GPU and publish its node classes. Return what is missing."""
        ...

    async def manage_models(
        self, command: str, wanted: list[dict[str, Any]], on_progress: OnModel = lambda *_: None
    ) -> list[dict[str, Any]]:
        """Run a command of `infra.models.sync` on the volume for these models, and return what it found."""
        ...

    async def ticket(self, pool: str, timeout_s: float) -> int:
        """Spawn a ticket for a single job and return how many it ran, at most 1. Raise TimeoutError if it takes
        longer."""
        ...
