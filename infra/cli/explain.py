"""How an error ends a command: what is printed, and the exit code.

Every error that a user can cause has a message that says what to do. The traceback of any other goes to a file.
"""

import math
import tempfile
import traceback
from typing import TYPE_CHECKING

from infra.cli.output import FAILED, REFUSED, UNREACHABLE, Refused, Terminal

if TYPE_CHECKING:
    from comfyui_modal_client import ApiProblem


def explain(error: Exception) -> int | None:
    """Print what is wrong and what to do about it. Return the exit code, or None for an unexpected error."""
    match error:
        case Refused():
            return _print(error, error.code)
        case OSError() if error.strerror:
            place = f"{error.filename}: " if error.filename is not None else ""
            return _print(f"{place}{error.strerror}", FAILED)
        case ImportError():
            return _print(f"{error}\n  → install what this version needs: `make setup`", FAILED)
    # Imported by now if a command has used the API.
    from comfyui_modal_client import ApiProblem, ApiUnreachable, ClientError, TransferFailed, WaitTimedOut

    match error:
        case ApiProblem():
            return _print_problem(error)
        case ApiUnreachable():
            return _print(error, UNREACHABLE)
        case TransferFailed() | WaitTimedOut():
            return _print(error, FAILED)
        case ClientError():  # of the arguments, such as a key that cannot be one
            return _print(error, REFUSED)
        case _:
            return _explain_operation(error)


def explain_unexpected(error: Exception) -> int:
    """Write the traceback to a file, and print its name."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="comfyui-modal-", suffix=".log", delete=False) as file:
            file.write("".join(traceback.format_exception(error)))
        where = f"in {file.name}: please report it"
    except OSError as unwritable:
        where = f"lost: {unwritable.strerror} in {tempfile.gettempdir()}"
    return _print(f"unexpected error: {type(error).__name__}: {error}\n  → the traceback is {where}", FAILED)


def _explain_operation(error: Exception) -> int | None:
    """Explain an error of a command that runs or examines a deployment."""
    # These modules take longer to load than the client, so a command that only asks the API does without them.
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from infra.cloud.port import CloudError, CloudUnreachable
    from infra.local.connection import BadCredentials
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
        case UpRefused() | BadCredentials() | CannotListen() | BadManifest() | BadLock():
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
    if problem.retry_after is not None:
        errors.print_line(f"  → try again in {math.ceil(problem.retry_after)} s")
    return REFUSED
