"""`make fuzz CASES=…` sends more generated requests than the test suite."""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from anyio.from_thread import start_blocking_portal

from tests.fuzz.api import Statuses, ask_everything
from tests.fuzz.bodies import ask_bodies
from tests.fuzz.numbers import ask_numbers
from tests.fuzz.world import DOCUMENTS, world


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="how many requests")
    parser.add_argument("--seed", type=int, default=1, help="the same one generates the same requests")
    options = parser.parse_args()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(world(Path(folder))) as there,
    ):
        disguised, statuses = list[str](), Statuses()
        for name, document in DOCUMENTS.items():
            disguised += [*ask_numbers(there, document), *ask_bodies(there, document)]
            cases = options.cases * len(document["paths"]) // sum(len(one["paths"]) for one in DOCUMENTS.values())
            statuses += ask_everything(there, name, cases=cases, random_seed=options.seed)
    sys.stdout.write(_table(statuses))
    if disguised:
        sys.stdout.write("\n".join(["taken, or answered by a 5xx:", *disguised, ""]))
        return 1
    seconds = time.monotonic() - started
    sys.stdout.write(f"{sum(statuses.values())} requests, all answered as documented, {seconds:.0f} s\n")
    return 0


def _table(statuses: Statuses) -> str:
    by_operation: dict[str, Counter[int]] = {}
    for (label, status), count in statuses.items():
        by_operation.setdefault(label, Counter())[status] += count
    return "".join(
        f"{label:60} {'  '.join(f'{status}: {count}' for status, count in sorted(found.items()))}\n"
        for label, found in by_operation.items()
    )


if __name__ == "__main__":
    sys.exit(main())
