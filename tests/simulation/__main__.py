"""`make simulate SEEDS=…` runs more seeds than the test suite, on every core."""

import argparse
import logging
import multiprocessing
import sys
import time

from tests.simulation.run import Course, simulate

REPORT_S = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument("--processes", type=int, default=None, help="at once; one a core unless given")
    options = parser.parse_args()
    started = reported = time.monotonic()
    seeds = range(options.first, options.first + options.seeds)
    run = accepted = calls = 0
    with multiprocessing.Pool(options.processes, initializer=_quiet) as pool:
        for course in pool.imap_unordered(_run, seeds, chunksize=20):
            run, accepted, calls = run + 1, accepted + course.accepted, calls + len(course.history)
            if course.violations:
                pool.terminate()
                sys.stdout.write("\n".join([*course.history, f"seed {course.seed}:", *course.violations, ""]))
                return 1
            if time.monotonic() - reported > REPORT_S:
                reported = time.monotonic()
                sys.stdout.write(f"{run} of {len(seeds)} seeds, {reported - started:.0f} s\n")
                sys.stdout.flush()
    sys.stdout.write(
        f"{run} seeds, {accepted} jobs accepted, {calls} storage calls, no violation, "
        f"{time.monotonic() - started:.0f} s\n"
    )
    return 0


def _quiet() -> None:
    logging.disable(logging.CRITICAL)


def _run(seed: int) -> Course:
    return simulate(seed)


if __name__ == "__main__":
    sys.exit(main())
