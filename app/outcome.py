"""What became of a request, noted in its scope by whoever knows, for who counts."""

from dataclasses import dataclass

from starlette.types import Scope

_KEY = "outcome"


@dataclass(slots=True)
class Outcome:
    """`problem` is the slug of the refusal, if it was one."""

    problem: str | None = None
    jobs_accepted: int = 0


def outcome_of(scope: Scope) -> Outcome:
    """The one of this request, to be changed."""
    outcome: Outcome = scope.setdefault("state", {}).setdefault(_KEY, Outcome())
    return outcome
