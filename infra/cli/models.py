"""`comfyui-modal models sync`, `models verify` and `models list`."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from infra.cli.arguments import AsJson, Environment
from infra.cli.output import FAILED, Terminal, print_json
from infra.cli.submission import refusal

if TYPE_CHECKING:  # imported when a command runs, so that its `--help` stays fast
    from infra.models.manifest import Model
    from infra.models.sync import Command, Found, OnProgress

models = App(name="models")

GIB = 1024**3

Manifest = Annotated[
    Path | None, Parameter(help="manifest of models; otherwise infra/models.toml", env_var="COMFYUI_MODAL_MODELS")
]
Folder = Annotated[
    Path | None, Parameter(name="--dir", help="a folder of models on this machine; otherwise the volume on Modal")
]
Only = Annotated[
    list[str] | None,
    Parameter(help="a model's file or folder/file, or a workflow by name; may be repeated", negative=""),
]


FromWorkflow = Annotated[
    Path | None,
    Parameter(help="a file that names its models and their URLs, as official templates do; used instead of a manifest"),
]


@models.command
def sync(  # noqa: PLR0913  one a flag
    *,
    only: Only = None,
    from_workflow: FromWorkflow = None,
    yes: Annotated[bool, Parameter(help="with --from-workflow, download without a question", negative="")] = False,
    dry_run: Annotated[bool, Parameter(help="say what is missing, and download nothing", negative="")] = False,
    folder: Folder = None,
    manifest: Manifest = None,
    env: Environment = None,
    as_json: AsJson = False,
) -> int:
    """Download what is missing: resumed, checked, and in place as a whole or not at all."""
    if from_workflow is not None:
        if only:
            raise refusal("--from-workflow takes its models from the workflow", "leave out --only")
        from infra.cli.workflow_models import sync_named

        return sync_named(from_workflow, folder, env, yes=yes, dry_run=dry_run, as_json=as_json)
    return _perform("plan" if dry_run else "sync", only, folder, manifest, env, as_json=as_json, may_lack=dry_run)


@models.command
def verify(
    *,
    only: Only = None,
    folder: Folder = None,
    manifest: Manifest = None,
    env: Environment = None,
    as_json: AsJson = False,
) -> int:
    """Hash every model, and compare it with the manifest and with what the first sync saw."""
    return _perform("verify", only, folder, manifest, env, as_json=as_json)


@models.command(name="list")
def list_models(
    *,
    workflow: Annotated[str | None, Parameter(help="only what this workflow needs")] = None,
    folder: Folder = None,
    manifest: Manifest = None,
    env: Environment = None,
    as_json: AsJson = False,
) -> int:
    """Show each model, and whether it is there."""
    only = None if workflow is None else [workflow]
    return _perform("plan", only, folder, manifest, env, as_json=as_json, may_lack=True)


def _perform(
    command: "Command",
    only: list[str] | None,
    folder: Path | None,
    manifest: Path | None,
    env: str | None,
    *,
    as_json: bool,
    may_lack: bool = False,
) -> int:
    from infra.manifests import ROOT
    from infra.models.manifest import chosen
    from infra.models.manifest import models as read

    wanted = chosen(read(manifest or ROOT / "infra/models.toml"), only)
    found = perform(command, wanted, folder, env)
    show(found, as_json=as_json)
    good = all(one.is_good or (may_lack and one.state == "missing") for one in found)
    return 0 if good else FAILED


def perform(command: "Command", wanted: "Sequence[Model]", folder: Path | None, env: str | None) -> "Sequence[Found]":
    """Run the command on a local folder or, if it is None, on the volume in a Modal environment. Shows progress."""
    with _progress() as on_progress:
        return _perform_there(command, wanted, on_progress, folder, env)


def _perform_there(
    command: "Command", wanted: "Sequence[Model]", on_progress: "OnProgress", folder: Path | None, env: str | None
) -> "Sequence[Found]":
    from infra.models.sync import Found, model_folder
    from infra.settings import HubSettings

    if folder is not None:
        # Not in an event loop, for which Ctrl-C would have to wait until the download ends.
        return model_folder(HubSettings().huggingface_token, folder).perform(command, wanted, on_progress)

    from infra.cloud.modal_cloud import ModalCloud

    # The deployed function runs the command, and reports its progress.
    # Without defaults, so that a function that was deployed before a field was added accepts the others.
    documents = [model.model_dump(exclude_none=True, exclude_defaults=True) for model in wanted]
    return [Found(**one) for one in asyncio.run(ModalCloud({}, env).manage_models(command, documents, on_progress))]


@contextmanager
def _progress() -> "Iterator[OnProgress]":
    """Show a bar for each model."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Terminal(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def show(name: str, have: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=have)

        yield show


def show(found: "Sequence[Found]", *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(one) for one in found])
        return
    console = Terminal()
    for one in found:
        size = "" if one.size_bytes is None else f"  {one.size_bytes / GIB:.2f} GiB"
        detail = f"  {one.detail}" if one.detail else ""
        console.print_line(f"{one.state:<10} {one.name}{size}{detail}")
