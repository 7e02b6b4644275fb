"""`comfyui-modal models sync --from-workflow`: downloads what a workflow itself names, after a question."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from infra.cli.models import GIB, perform, show
from infra.cli.output import FAILED, Refused, Terminal
from infra.cli.submission import load, refusal

if TYPE_CHECKING:
    from infra.models.download import Downloader
    from infra.models.manifest import Model
    from infra.models.named import NamedModels
    from infra.models.sync import Found

SIZES_AT_ONCE = 8
"""Sources that are asked for the size of their file at the same time."""
VOLUME = "the models volume on Modal"


def sync_named(path: Path, folder: Path | None, env: str | None, *, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Download the missing models of a workflow, into a folder or to the volume. Returns the exit code."""
    from infra.models.download import Downloader
    from infra.models.named import models_named_by
    from infra.settings import HubSettings
    from workflows.errors import WorkflowError

    try:
        named = models_named_by(load(path, prefer="workflow"))
    except WorkflowError as error:
        raise refusal(error.message, error.hint) from None
    _print_left_out(path, named)
    if not named.models:
        return FAILED if named.refused or named.without_source else 0
    found = perform("plan", named.models, folder, env)
    missing = [model for model, one in zip(named.models, found, strict=True) if one.state == "missing"]
    if missing and not dry_run:
        if not yes and not sys.stdin.isatty():
            raise refusal("a download is asked for on a terminal, and this is none", "give --yes to download at once")
        token = HubSettings().huggingface_token
        downloader = Downloader(token=token.get_secret_value() if token is not None else None)
        sized = with_sizes(missing, downloader)
        if not yes and not _is_wanted(sized, folder):
            return FAILED
        found = _merged(found, perform("sync", sized, folder, env))
    show(found, as_json=as_json)
    is_good = all(one.is_good or (dry_run and one.state == "missing") for one in found)
    return 0 if is_good and not named.refused else FAILED


def _print_left_out(path: Path, named: "NamedModels") -> None:
    console = Terminal(stderr=True)
    for name, reason in named.refused:
        console.print_line(f"refused: {name}: {reason}")
    for name in named.without_source:
        console.print_line(f"no source: {name}, which {path.name} names without a URL; add it to your manifest")
    if not (named.models or named.refused or named.without_source):
        console.print_line(f"{path.name} names no model")


def with_sizes(models: "Sequence[Model]", downloader: "Downloader") -> "list[Model]":
    """Return the models with the sizes that their sources state. A source that fails now will say why in the sync."""
    from infra.models.download import ModelRefused

    def sized(model: "Model") -> "Model":
        try:
            size = downloader.size_of(model)
        except ModelRefused:
            return model
        return model.model_copy(update={"size_bytes": size}) if size else model

    with ThreadPoolExecutor(SIZES_AT_ONCE) as pool:
        return list(pool.map(sized, models))


def _is_wanted(models: "Sequence[Model]", folder: Path | None) -> bool:
    """Show what would be downloaded, and ask."""
    console = Terminal(stderr=True)
    target = VOLUME if folder is None else str(folder)
    console.print_line(f"to {target}:")
    for model in models:
        console.print_line(f"  {model.name}  {_size(model.size_bytes)}  from {model.source()}")
    known = [model.size_bytes for model in models if model.size_bytes is not None]
    more = "" if len(known) == len(models) else ", and those whose size is not known"
    console.print_line(f"{_size(sum(known))}{more}. Anybody may have written these sources. Download? [y/N] ")
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        raise Refused("nothing was downloaded") from None


def _size(size_bytes: int | None) -> str:
    return "size unknown" if size_bytes is None else f"{size_bytes / GIB:.2f} GiB"


def _merged(before: "Sequence[Found]", after: "Sequence[Found]") -> "list[Found]":
    newest = {one.name: one for one in after}
    return [newest.get(one.name, one) for one in before]
