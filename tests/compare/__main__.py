"""`make compare` prints the table for a folder of graphs, and fails if a row that must be empty is not."""

import argparse
import asyncio
import logging
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.compare.comparison import Comparison, Options
from tests.compare.graphs import graphs_in
from tests.compare.table import (
    FAILED,
    MARKED,
    NO_FILE,
    OTHER_WORDS,
    POLICY,
    STRANGERS,
    UNSTABLE,
    is_clean,
    listed,
    table,
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)
    graphs = graphs_in(options.graphs)
    base = options.base or Path(tempfile.mkdtemp(prefix="comfyui-modal-compare-"))
    comparison = Comparison(
        Options(
            directory=options.comfyui_dir,
            python=options.comfyui_python,
            base=base.absolute(),
            arguments=tuple(shlex.split(options.comfyui_args)),
            with_placeholders=not options.no_placeholders,
            limit_s=options.limit_s,
        )
    )
    compared = asyncio.run(comparison.run(graphs[: options.first]))
    print(table(compared))  # noqa: T201  the command's output
    print(listed(compared, [*MARKED, NO_FILE, POLICY]))  # noqa: T201
    if options.report:
        rows = [*MARKED, NO_FILE, POLICY, OTHER_WORDS, FAILED, UNSTABLE, STRANGERS]
        options.report.write_text(f"{table(compared)}\n{listed(compared, rows)}\n")
    return 0 if is_clean(compared) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make compare", description=__doc__)
    parser.add_argument("graphs", type=Path, help="folder with graphs in API format")
    parser.add_argument("--comfyui-dir", type=Path, help="ComfyUI's folder; without it the lite engine is compared")
    parser.add_argument("--comfyui-python", type=Path, help="the interpreter that runs it")
    parser.add_argument("--comfyui-args", default="", help="further arguments for its command line")
    parser.add_argument("--base", type=Path, help="folder for models and files, kept; a temporary one otherwise")
    parser.add_argument(
        "--no-placeholders", action="store_true", help="make no empty files for the models that graphs name"
    )
    parser.add_argument("--limit-s", type=int, default=20, help="longest run of a graph; 0 runs none")
    parser.add_argument("--first", type=int, help="only so many graphs")
    parser.add_argument("--report", type=Path, help="where the table and all lists are written")
    return parser


if __name__ == "__main__":
    sys.exit(main())
