"""What an operator's commands ask of the cloud. `ModalCloud` is the one that a deployment has; tests have their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

OnModel = Callable[[str, int, int | None], None]
"""A model's name, its bytes that are there, and how many there are, if that is known."""


class CloudError(Exception):
    """The cloud did not do what it was asked for; the message is its own."""


class CloudUnreachable(CloudError):
    """There is no token, it is not valid, or nothing answers."""


class NotDeployed(CloudError):
    """The app, or this part of it, is not there."""


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """What a pool has to do now: tickets that wait, tickets that run, containers."""

    waiting: int
    running: int
    containers: int


@dataclass(frozen=True, slots=True)
class PoolScale:
    """The autoscaler of a pool. Counts are containers, `max_containers` None is no limit; `idle_s` None is unknown."""

    min_containers: int
    max_containers: int | None
    buffer_containers: int
    idle_s: int | None


@dataclass(frozen=True, slots=True)
class ScaleChange:
    """What is to change; None leaves a number as it is."""

    min_containers: int | None = None
    max_containers: int | None = None
    buffer_containers: int | None = None


class Cloud(Protocol):
    """Every method may raise `CloudUnreachable` or another `CloudError`."""

    async def hello(self) -> None:
        """Reach the control plane with the token."""
        ...

    async def secret_has(self, name: str, variables: Sequence[str]) -> bool:
        """Whether the secret exists and holds all of these; values cannot be read."""
        ...

    async def volume_exists(self, name: str) -> bool: ...

    async def has_function(self, name: str) -> bool: ...

    async def url(self, name: str) -> str:
        """Where a web function answers; NotDeployed if there is none."""
        ...

    async def load(self, pool: str) -> PoolLoad: ...

    async def scale(self, pool: str) -> PoolScale: ...

    async def rescale(self, pool: str, change: ScaleChange) -> PoolScale:
        """What holds afterwards, until the next deploy."""
        ...

    async def check_image(self) -> list[str]:
        """Start the deployed engine without a GPU, and publish which nodes it has. Returns what is missing."""
        ...

    async def see_to_models(
        self, command: str, wanted: list[dict[str, Any]], on_progress: OnModel = lambda *_: None
    ) -> list[dict[str, Any]]:
        """`command` of `infra.models.folders` on the volume, for these models of a manifest; what was found."""
        ...

    async def ticket(self, pool: str, timeout_s: float) -> str | None:
        """Have a worker take one ticket: the job that it ran, None if none waited. TimeoutError if it takes longer."""
        ...
