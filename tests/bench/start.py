"""The start times of `comfyui-modal up`, of the command itself, of the API's imports and of the engine."""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tests.bench import engine_start
from tests.bench.figures import Figure, Table, figures
from tests.bench.processes import ROOT
from tests.support.environment import clean_environment
from tests.support.up import COMMAND, up

ROUNDS = 3
API = "infra.local.api_process"
HEAVIEST = 5
_IMPORT = re.compile(r"import time: +(\d+) \| +\d+ \| +(\S+)")


def run() -> Table:
    return figures([*_up(), *_command(), *_imports(), *engine_start.rows()], f"Medians of {ROUNDS} starts.")


# comfyui-modal up


def _up() -> list[Figure]:
    phases = [_phases() for _ in range(ROUNDS)]
    return [
        Figure(f"`comfyui-modal up` to {phase}", f"{statistics.median(one[phase] for one in phases):.1f} s")
        for phase in phases[0]
    ]


def _phases() -> dict[str, float]:
    """Return the seconds of each phase since the command, for a new folder with one worker and the lite engine."""
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
        data = Path(folder, "data")
        began = time.time()
        with up(data, "--engine", "lite"):
            ready = time.time()
            moments = {
                "S3 server ready": (data / "s3" / "s3.port").stat().st_mtime,
                "API ready": _said(data / "logs" / "api.log", "Application startup complete"),
                "worker's engine ready": _said(data / "logs" / "worker-1.log", "engine ready"),
                "`ready`": ready,
            }
    return {phase: moment - began for phase, moment in moments.items()}


def _said(log: Path, start: str) -> float:
    """Return when the first line with this start was logged, in Unix time."""
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    line = next(line for line in lines if line["message"].startswith(start))
    return datetime.fromisoformat(line["time"]).timestamp()


# The command, and the API's imports.


def _command() -> list[Figure]:
    return [
        Figure(f"`comfyui-modal {option}`", f"{_median_s([*COMMAND, option]):.2f} s")
        for option in ("--version", "--help")
    ]


def _median_s(command: Sequence[str]) -> float:
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        subprocess.run(command, env=clean_environment(), stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _imports() -> list[Figure]:
    """Measure with `-X importtime`, which slows imports a little. A package's time is that of its own modules."""
    rounds = sorted((_imported() for _ in range(ROUNDS)), key=lambda one: sum(one.values()))
    middle = rounds[ROUNDS // 2]
    packages = Counter[str]()
    for module, microseconds in middle.items():
        packages[module.partition(".")[0]] += microseconds
    return [
        Figure(f"imports of the API: {len(middle)} modules", f"{sum(middle.values()) / 1000:.0f} ms"),
        *(
            Figure(f"of these, `{name}`", f"{time_us / 1000:.0f} ms")
            for name, time_us in packages.most_common(HEAVIEST)
        ),
    ]


def _imported() -> dict[str, int]:
    """Return the microseconds of each module that is imported after Python's own start."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {API}"]
    said = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True).stderr
    lines = [_IMPORT.fullmatch(line) for line in said.splitlines()]
    times = {line[2]: int(line[1]) for line in lines if line}
    started = list(times).index("site") + 1
    return dict(list(times.items())[started:])
