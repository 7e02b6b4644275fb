"""`make bench`: run the benches and print their figures."""

import platform
import sys

from rich.console import Console
from rich.table import Table

from tests.bench import flood, judging, large_output, requests_per_job, storage_memory, webhooks

BENCHES = (judging, requests_per_job, webhooks, storage_memory, large_output, flood)


def main() -> int:
    console = Console(width=110)
    console.print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}", highlight=False)
    table = Table("figure", "value", "aim", box=None)
    for bench in BENCHES:
        for row in bench.run():
            table.add_row(row.name, row.value, row.aim)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
