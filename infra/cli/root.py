"""The command `comfyui-modal`: the table of its commands, and how an error ends one.

The module of a command is imported when the command is used. The help texts of the table stand here for that reason:
`comfyui-modal --help` imports none of those modules.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cyclopts import App

from app import __version__
from infra.cli.output import FAILED, REFUSED, UNREACHABLE, Refused, Terminal

if TYPE_CHECKING:
    from comfyui_modal_client import ApiProblem

cli = App(
    name="comfyui-modal",
    help="Run ComfyUI workflows on your own Modal account and bucket.",
    version=__version__,
    result_action="return_value",
)

cli.command(
    "infra.cli.up:up",
    help="""Serve the API on this machine: S3 server, API and workers, until Ctrl-C.

Prints one line when all is ready, and writes DATA/connection.json for clients.""",
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
cli.command("infra.cli.workflows:workflows", help="Show the workflows that can be run by name.")
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
cli.command("infra.cli.bucket:bucket", help="Set up the bucket, and print the policy that its key needs.")

cli.register_install_completion_command(help="Set up tab completion for your shell: bash, zsh or fish.")


def main(words: Sequence[str] | None = None) -> int:
    """Run a command, by default that of `sys.argv`, and return its exit code. An expected error becomes a message."""
    try:
        code: int | None = cli(words)
    except Exception as error:
        code = explain(error)
        if code is None:
            raise
    return code or 0


def explain(error: Exception) -> int | None:
    """Print what is wrong and what to do about it. Return the exit code, or None for an unexpected error."""
    if isinstance(error, Refused):
        return _print(error, error.code)
    # Imported by now if a command has used the API.
    from comfyui_modal_client import ApiProblem, ApiUnreachable, TransferFailed, WaitTimedOut

    match error:
        case ApiProblem():
            return _print_problem(error)
        case ApiUnreachable():
            return _print(error, UNREACHABLE)
        case TransferFailed() | WaitTimedOut():
            return _print(error, FAILED)
        case _:
            return _explain_operation(error)


def _explain_operation(error: Exception) -> int | None:
    """Explain an error of a command that runs or examines a deployment."""
    # These modules take longer to load than the client, so a command that only asks the API does without them.
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from infra.cloud.port import CloudError, CloudUnreachable
    from infra.local.data_folder import UpRefused
    from infra.local.host import CannotListen
    from infra.local.s3_server import S3ServerFailed
    from infra.manifests import BadManifest
    from infra.models.sync import BadLock
    from infra.settings import format_errors
    from storage.errors import StorageError

    match error:
        case ValidationError() | SettingsError():
            return _print(format_errors(error), REFUSED)
        case UpRefused() | CannotListen() | BadManifest() | BadLock():
            return _print(error, REFUSED)
        case CloudUnreachable():
            return _print(error, UNREACHABLE)
        case CloudError() | StorageError() | S3ServerFailed():
            return _print(error, FAILED)
        case _:
            return None


def _print(message: object, code: int) -> int:
    Terminal(stderr=True).print_line(str(message), style="red")
    return code


def _print_problem(problem: "ApiProblem") -> int:
    """Print each fault of a request, followed by its hint."""
    errors = Terminal(stderr=True)
    errors.print_line(f"refused: {problem}", style="red")
    faults = [
        (None, problem.hint),
        *((f"{one['pointer']}: {one['detail']}", one.get("hint")) for one in problem.errors[1:]),
    ]
    for words, hint in faults:
        if words:
            errors.print_line(words)
        if hint and not hint.endswith("errors for each field"):  # they are printed here
            errors.print_line(f"  → {hint}")
    return REFUSED
