"""The command `comfyui-modal`: the table of its commands, and how one ends.

The module of a command is imported when the command is used. The help texts of the table stand here for that reason:
`comfyui-modal --help` imports none of those modules.
"""

import contextlib
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from app import __version__
from infra.cli.output import CLOSED_PIPE, INTERRUPTED, Terminal

cli = App(
    name="comfyui-modal",
    help="Run ComfyUI workflows on your own Modal account and bucket.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

cli.command(
    "infra.cli.up:up",
    help="""Serve the API on this machine: S3 server, API and workers, until Ctrl-C.

Prints one line when all is ready, and writes DATA/connection.json for clients.""",
)
cli.command(
    "infra.cli.open:open_pages", name="open", help="Open the pages in your browser, logged in by a one-time link."
)
cli.command("infra.cli.serve:api", help="Serve the API alone, on the bucket of the COMFYUI_MODAL_* settings.")
cli.command("infra.cli.serve:worker", help="Run one worker alone: it starts its engine, and runs jobs of the bucket.")
cli.command("infra.cli.serve:deliver", help="Send webhooks alone: events of the bucket, until Ctrl-C.")
cli.command("infra.cli.serve:reap", help="Run the reaper alone: it finds every few seconds what a dead process left.")
cli.command(
    "infra.cli.doctor:doctor",
    help="""Check the bucket, the API and the engine: what holds, what does not, and what to do about it.

Checks what `up` runs in DATA; without it, the bucket of the COMFYUI_MODAL_* settings; with --cloud, Modal.""",
)
cli.command("infra.cli.run:run", help="Submit a workflow, follow it, download what it makes.")
cli.command(
    "infra.cli.run:batch", help="Submit a workflow once for each picture, wait for all, download what they make."
)
cli.command("infra.cli.batches:batches", help="Submit many jobs in one request, show and cancel them.")
cli.command("infra.cli.uploads:uploads", help="Upload input files to the bucket.")
cli.command("infra.cli.jobs:jobs", help="Show jobs, wait for them, download their outputs, cancel and remove them.")
cli.command("infra.cli.jobs:logs", help="Print what the engine said while the job ran.")
cli.command(
    "infra.cli.workflows:workflows",
    help="Show the workflows that can be run by name, and make them from files of ComfyUI's editor.",
)
cli.command("infra.cli.webhooks:webhooks", help="Try receivers, and see how deliveries went.")
cli.command(
    "infra.cli.webhooks:listen",
    help="Receive webhooks on this machine: each event is verified and shown. For development.",
)
cli.command(
    "infra.cli.system:system",
    help="Show what runs there: versions, and the GPU and attention of each pool's last worker.",
)
cli.command("infra.cli.system:openapi", help="Print the API's OpenAPI document.")
cli.command("infra.cli.cloud:deploy", help="Check what a deployment needs, deploy to Modal, print the API's URL.")
cli.command("infra.cli.cloud:destroy", help="Stop the deployment on Modal; the bucket and its jobs stay.")
cli.command("infra.cli.cloud:scale", help="Show the limits of a pool's workers, or change them until the next deploy.")
cli.command(
    "infra.cli.status:status",
    help="Show the deployment: the API's URL, waiting and running work, containers, the queue.",
)
cli.command("infra.cli.models:models", help="Download the models of workflows, and check them.")
cli.command("infra.cli.keys:keys", help="Make API keys, list and revoke them.")
cli.command("infra.cli.secrets:secrets", help="Make the secrets of a deployment.")
cli.command("infra.cli.bucket:bucket", help="Set up the bucket, and print the policy that its key needs.")

cli.register_install_completion_command(help="Set up tab completion for your shell: bash, zsh or fish.")


def main(words: Sequence[str] | None = None) -> int:
    """Run a command, by default that of `sys.argv`, and return its exit code. An error becomes a message."""
    try:
        code = _run(words)
        # Here, and not when Python ends: a reader that has ended is noticed when the last bytes are written.
        sys.stdout.flush()
    except BrokenPipeError:
        return _ended_by_reader()
    except KeyboardInterrupt:
        with contextlib.suppress(BrokenPipeError):
            sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return code


def _run(words: Sequence[str] | None) -> int:
    try:
        return _call(words)
    except BrokenPipeError:
        raise
    except Exception as error:
        from infra.cli.explain import explain, explain_unexpected

        code = explain(error)
        return explain_unexpected(error) if code is None else code


def _call(words: Sequence[str] | None) -> int:
    output, errors = Terminal(), Terminal(stderr=True)
    # The boxes of the default help are as wide as the terminal.
    cli.help_formatter = "default" if output.is_terminal else "plain"
    code: object
    try:
        code = cli(words, console=output, error_console=errors, error_formatter=_refusal)
    except SystemExit as end:  # how cyclopts ends for wrong arguments
        code = end.code
    return code if isinstance(code, int) else 0


def _refusal(error: CycloptsError) -> str:
    chain = " ".join(("comfyui-modal", *(error.command_chain or ())))
    return f"{error}\n  → see `{chain} --help`"


def _ended_by_reader() -> int:
    """Discard what is still buffered, which Python would try to write at its end."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nothing, stream.fileno())
    return CLOSED_PIPE
