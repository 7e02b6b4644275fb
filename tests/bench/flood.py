"""10,000 silent connections at once: the duration of /health, and the cost of the connections."""

import statistics
import tempfile
from pathlib import Path

from tests.bench.figures import Figure, Table, figures
from tests.support.flood import flooded
from tests.support.up import up

CONNECTIONS = 10_000
MIB = 1024 * 1024


def run() -> Table:
    with tempfile.TemporaryDirectory() as folder, up(Path(folder)) as running:
        connection = running.connection
        weather = flooded(connection["api_url"], connection["processes"]["api"], CONNECTIONS)
    health = sorted(seconds * 1000 for seconds in weather.health_s)
    return figures(
        [
            Figure("silent connections opened", f"{weather.connections}"),
            Figure("/health meanwhile: p50, worst", f"{statistics.median(health):.0f} ms, {health[-1]:.0f} ms"),
            Figure(
                "the API's memory: before, at most",
                f"{weather.rss_before / MIB:.0f}, {weather.rss_most / MIB:.0f} MiB",
            ),
            Figure("its open files at most", f"{weather.open_most}"),
        ]
    )
