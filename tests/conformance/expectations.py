"""The expectations: normalised recordings of real ComfyUI, one folder per version. The older version's folder has only
the files that differ.

`python -m tests.conformance.expectations RECORDINGS` regenerates them from a folder of recordings by version.
"""

import difflib
import gzip
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conformance.declarations import declared
from tests.conformance.normalise import normalise
from tests.conformance.scenarios import Scenario, all_scenarios
from workers.lite.nodes import node_classes

FOLDER = Path(__file__).parent / "expected"
REFERENCE = "0.33.0"
"""The ComfyUI version that the lite engine follows."""

_NOT_PLAYED = {
    "s24_cycle": ("GET /history",),
    "s30_validation": ("CheckpointLoaderSimple", "JSON with text/plain", "GET /prompt", "GET /queue", "POST /history"),
    "s62_history_api": ("GET /history?max_items=1&offset=0",),
    "s64_jobs_api": ("GET /api/jobs?status=completed&limit=1", "GET /api/jobs?status=failed&limit=1"),
}
"""Calls of a recording that a scenario leaves out, by the start of their note or of their method and path. They depend
on the server's earlier state, or on nodes that the lite engine lacks."""


def transcript(scenario: Scenario, recording: Mapping[str, Any]) -> dict[str, Any]:
    """Return the compared part of a recording of this scenario."""
    left_out = _NOT_PLAYED.get(scenario.name, ())
    kept = [
        call
        for call in recording["http"]
        if not (f"{call['method']} {call['path']}".startswith(left_out) or call.get("note", "").startswith(left_out))
    ]
    if scenario.http_only:
        return normalise({"http": kept, "ws": []})
    return normalise({**recording, "http": kept}, varying_progress=scenario.varying)


def expected(scenario: Scenario, version: str) -> Any:
    """Return the expectation of this version, or else that of the reference version."""
    own = FOLDER / version / f"{scenario.name}.json"
    return json.loads((own if own.exists() else FOLDER / REFERENCE / f"{scenario.name}.json").read_text())


def differences(wanted: Any, found: Any) -> str:
    """Return a line diff, which is empty if both are equal."""
    before, after = (_as_text(value).splitlines() for value in (wanted, found))
    return "\n".join(difflib.unified_diff(before, after, "recorded", "found", lineterm="", n=4))


def _as_text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)


def main(recordings: Path) -> None:
    versions = sorted((path.name for path in recordings.iterdir() if path.is_dir()), key=lambda name: name != REFERENCE)
    for version in versions:
        (FOLDER / version).mkdir(parents=True, exist_ok=True)
        for scenario in all_scenarios().values():
            recording = json.loads((recordings / version / f"{scenario.name}.json").read_text())
            found = transcript(scenario, recording)
            if version == REFERENCE or found != expected(scenario, REFERENCE):
                path = FOLDER / version / f"{scenario.name}.json"
                path.write_text(_as_text(found) + "\n")
    nodes = json.loads(gzip.decompress((recordings / REFERENCE / "object_info.json.gz").read_bytes()))
    facts = {name: declared(nodes[name]) for name in node_classes() if name in nodes}
    (FOLDER / REFERENCE / "declarations.json").write_text(_as_text(facts) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
