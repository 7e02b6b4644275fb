"""Starts a module of this project so that no other package takes the place of ours.

Our packages have common names (`app`, `storage`, …), and `python -m` finds a package in the working directory or in
PYTHONPATH first: in the folder of a FastAPI project that would be its own `app/`. So every Python process of ours is
`python -I comfyui_modal.py MODULE ARGUMENT…`. With -I Python searches neither of the two, nor the user's site folder,
and this file puts the folder that it lies in before all others. The console script `comfyui-modal` starts itself in
the same way. Engines of other projects are not started through it: ComfyUI has an `app/` of its own, which must win.

Only `os` and `sys` are imported at the top: Python loads these two before anything can shadow them.
"""

import os
import sys

MISCONFIGURED = 2
"""Exit code for a failure that a restart does not cure: a bad setting or manifest, a missing module."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""
REASON = "cannot start: "
"""What such a process writes last, before the reason."""
YOUNG_OBJECTS_AT_START = 10_000
"""New objects after which the garbage collector examines them; later as well, unless a process changes it."""

ROOT = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120  pathlib could be shadowed here

CLIENT = os.path.join(ROOT, "client", "src")  # noqa: PTH118  as above
"""The folder of the Python client, which is a distribution of its own and which the command line is built on."""


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of ours, whatever the working directory and the environment are."""
    return [sys.executable, "-I", os.path.realpath(__file__), module, *arguments]


def main() -> None:
    """The console script. Replaces this process by one that nothing can shadow."""
    os.execv(sys.executable, command("infra.cli", *sys.argv[1:]))  # noqa: S606  no shell is wanted


def run(module: str, arguments: list[str]) -> int:
    """Run the module as `python -m` would. Returns only if the module does not end the process itself."""
    # The standard library stays before packages that are installed as a whole in a site folder.
    if os.path.basename(ROOT) not in ("site-packages", "dist-packages"):  # noqa: PTH119
        sys.path[:0] = [ROOT, CLIENT]
    sys.argv = [module, *arguments]
    import gc  # built in, so that nothing can shadow it
    import runpy

    # What modules make while they are imported stays. With Python's 700, collections are a tenth of a start's time.
    # Only the API, whose requests leave cycles, returns to that (`infra.memory`).
    gc.set_threshold(YOUNG_OBJECTS_AT_START)

    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # while modules are imported; later each process handles it itself
        return INTERRUPTED
    except ImportError as error:
        import traceback

        traceback.print_exception(error)
        return refuse(f"{error}\n  → install what this version needs: `make setup`")
    return 0


def refuse(reason: str) -> int:
    """The exit code of a process that cannot start, after it has said why."""
    sys.stderr.write(f"{REASON}{reason}\n")
    return MISCONFIGURED


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
