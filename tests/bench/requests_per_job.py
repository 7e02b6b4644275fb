"""Requests to the bucket and bytes written for one small job by phase, independent of the number of jobs."""

import asyncio

from tests.bench.figures import Table
from tests.support.phases import measured_phases

VERBS = ("PUT", "LIST", "GET", "DELETE")
WARM = "Caches are warm, as they are but for the first job of a shape and once a minute a process."
WRITTEN = (
    "The bytes are those of a job whose one output is a picture of 8 x 8 pixels; an index key has none. "
    "One PUT of a submission is the key of its ticket on Modal, which permanent workers do not need."
)


def run() -> Table:
    phases = asyncio.run(measured_phases())
    rows = [
        (phase, *(str(cost.requests[verb]) for verb in VERBS), str(sum(cost.requests.values())), f"{cost.written}")
        for phase, cost in phases.items()
    ]
    return Table(("phase", *VERBS, "requests", "bytes written"), rows, (f"{WARM} {WRITTEN}",))
