"""`make fuzz-guided TARGET=graph SECONDS=60`: inputs grown by what they reach in our code, with atheris.

Needs the requirements of requirements/fuzz.txt, which the make target installs. An input that breaks a target ends the
run with its traceback, and is written to a file `crash-…`.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["app", "infra", "storage", "workers", "workflows"]):
    from tests.fuzz.targets import SEEDS, TARGETS


def main() -> None:
    """Arguments: the target's name, then libFuzzer's own."""
    name, *options = sys.argv[1:]
    corpus = Path(f"corpus-{name}")
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
