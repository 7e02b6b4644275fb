"""The commands `bucket setup` and `bucket policy`, for the owner of the bucket."""

import json
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.console import Console

from infra.cli.output import FAILED, REFUSED, print_json

if TYPE_CHECKING:  # commands import lazily, so that `--help` stays fast
    from infra.settings import Settings
    from storage.bucket.setup import RuleChange

bucket = App(name="bucket", help="Set up the bucket, and print the policy that its key needs.")

Bucket = Annotated[str | None, Parameter(name="--bucket", help="its name; COMFYUI_MODAL_BUCKET otherwise")]


@bucket.command
def setup(
    *,
    cors_origin: Annotated[
        list[str] | None,
        Parameter(
            help="a web origin whose pages use presigned URLs, https://app.example; may be repeated", negative=""
        ),
    ] = None,
    dry_run: Annotated[bool, Parameter(help="say what would change, and change nothing", negative="")] = False,
    name: Bucket = None,
) -> int:
    """Set the bucket's CORS and lifecycle rules; rules of others stay.

    Without --cors-origin CORS is left as it is. The bucket is that of the COMFYUI_MODAL_* settings; without
    COMFYUI_MODAL_S3_ACCESS_KEY, the credentials of the AWS configuration are used.
    """
    import asyncio

    settings = _settings(name)
    return REFUSED if settings is None else asyncio.run(_set_up(settings, cors_origin or [], dry=dry_run))


@bucket.command
def policy(
    *,
    for_setup: Annotated[
        bool, Parameter(name="--setup", help="print what `bucket setup` needs instead", negative="")
    ] = False,
    name: Bucket = None,
) -> int:
    """Print the least-privilege IAM policy for the deployment's key."""
    from storage.bucket.setup import run_policy, setup_policy

    settings = _settings(name)
    if settings is None:
        return REFUSED
    document = setup_policy(settings.bucket) if for_setup else run_policy(settings.bucket, settings.s3_prefix)
    print_json(document, indent=2)
    return 0


async def _set_up(settings: "Settings", origins: list[str], *, dry: bool) -> int:
    """Set each kind of rule separately, because a store may support only one of them."""
    from infra.compose.stores import s3_config
    from storage.bucket.setup import BucketSetup
    from storage.errors import StorageError

    target = BucketSetup(s3_config(settings))
    plans = [target.plan_lifecycle()] + ([target.plan_cors(origins)] if origins else [])
    failed = False
    for plan in plans:
        try:
            change = await plan
            if change.is_needed and not dry:
                await target.apply(change)
            _tell(change, dry=dry)
        except StorageError as error:
            failed = True
            Console(stderr=True).print(f"{error}", style="red", highlight=False, markup=False)
            Console(stderr=True).print(
                "  → `bucket policy --setup` prints what this key must be allowed", highlight=False
            )
    return FAILED if failed else 0


def _tell(change: "RuleChange", *, dry: bool) -> None:
    console = Console()
    verdict = ("would be set" if dry else "set") if change.is_needed else "is as it should be"
    kept = f", {len(change.foreign)} rules of others stay" if change.foreign else ""
    console.print(f"{change.kind}: {verdict}{kept}", highlight=False, markup=False)
    if change.is_needed:
        for sign, rules in (("-", change.present), ("+", change.wanted)):
            for rule in rules:
                console.print(f"  {sign} {json.dumps(rule)}", highlight=False, markup=False, soft_wrap=True)


def _settings(name: str | None) -> "Settings | None":
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from infra.settings import external_settings, format_errors

    errors = Console(stderr=True)
    try:
        settings = external_settings(name)
    except (ValidationError, SettingsError) as fault:
        errors.print(format_errors(fault), style="red", highlight=False, markup=False)
        return None
    if settings is None:
        errors.print("no bucket is named: give --bucket, or set COMFYUI_MODAL_BUCKET", style="red", highlight=False)
    return settings
