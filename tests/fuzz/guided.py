"""`make fuzz-guided TARGET=graph SECONDS=60` fuzzes a target with atheris, guided by code coverage.

It needs requirements/fuzz.txt, which the make target installs. An input that breaks a target ends the run with its
traceback and is written to a file `crash-…`.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["app", "infra", "storage", "workers", "workflows"]):
    from tests.fuzz.targets import SEEDS, TARGETS


def main() -> None:
    """Run with the target's name, followed by libFuzzer's arguments."""
    name, *options = sys.argv[1:]
    corpus = Path(f"corpus-{name}")
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
