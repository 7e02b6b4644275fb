"""The per-request outcome, stored in the ASGI scope for the metrics."""

from dataclasses import dataclass

from starlette.types import Scope

_KEY = "outcome"


@dataclass(slots=True)
class Outcome:
    """The outcome of one request. `problem` is the slug of the problem that was sent, or None."""

    problem: str | None = None
    jobs_accepted: int = 0


def outcome_of(scope: Scope) -> Outcome:
    """Return the mutable outcome of this request."""
    outcome: Outcome = scope.setdefault("state", {}).setdefault(_KEY, Outcome())
    return outcome
