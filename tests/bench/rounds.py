"""The time that a job waits for a bucket that takes 25 ms per request, like S3, in rounds and in milliseconds."""

from tests.bench.figures import Table
from tests.support.rounds import REQUEST_S, Rounds, measured_rounds


def run() -> Table:
    rows = [_row("POST /v1/jobs", measured_rounds()), _row("with an Idempotency-Key", measured_rounds("once"))]
    return Table(("", "until 202", "until completed is seen by a long poll, without the engine"), rows)


def _row(name: str, rounds: Rounds) -> tuple[str, ...]:
    return (
        name,
        *(f"{count:g} rounds, {1000 * count * REQUEST_S:g} ms" for count in (rounds.accepted, rounds.completed)),
    )
