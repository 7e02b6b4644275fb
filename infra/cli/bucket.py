"""`comfyui-modal bucket setup` and `bucket policy`, for the owner of the bucket."""

import json
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from infra.cli.output import FAILED, Refused, Terminal, print_json

if TYPE_CHECKING:  # imported when a command runs, so that its `--help` stays fast
    from infra.settings import Settings
    from storage.bucket.setup import RuleChange

bucket = App(name="bucket")

Bucket = Annotated[str | None, Parameter(name="--bucket", help="its name; COMFYUI_MODAL_BUCKET otherwise")]


@bucket.command
async def setup(
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
    from app.urls import web_origin
    from infra.compose.stores import s3_config
    from storage.bucket.setup import BucketSetup
    from storage.errors import StorageError

    for origin in cors_origin or ():
        try:
            # S3 takes one `*` in an origin.
            web_origin(origin.replace("*", "any", 1) if origin != "*" else origin)
        except ValueError as error:
            raise Refused(f"--cors-origin: {error}") from None
    target = BucketSetup(s3_config(_settings(name)))
    # Each kind of rule is set separately, because a store may support only one of them.
    plans = [target.plan_lifecycle()] + ([target.plan_cors(cors_origin)] if cors_origin else [])
    errors, failed = Terminal(stderr=True), False
    for plan in plans:
        try:
            change = await plan
            if change.is_needed and not dry_run:
                await target.apply(change)
            _print_change(change, dry=dry_run)
        except StorageError as error:
            failed = True
            errors.print_line(str(error), style="red")
            errors.print_line("  → `bucket policy --setup` prints what this key must be allowed")
    return FAILED if failed else 0


@bucket.command
def policy(
    *,
    for_setup: Annotated[
        bool, Parameter(name="--setup", help="print what `bucket setup` needs instead", negative="")
    ] = False,
    name: Bucket = None,
) -> None:
    """Print the least-privilege IAM policy for the deployment's key."""
    from storage.bucket.setup import run_policy, setup_policy

    settings = _settings(name)
    document = setup_policy(settings.bucket) if for_setup else run_policy(settings.bucket, settings.s3_prefix)
    print_json(document, indent=2)


def _print_change(change: "RuleChange", *, dry: bool) -> None:
    console = Terminal()
    state = ("would be set" if dry else "set") if change.is_needed else "is as it should be"
    kept = f", {len(change.foreign)} rules of others stay" if change.foreign else ""
    console.print_line(f"{change.kind}: {state}{kept}")
    if change.is_needed:
        for sign, rules in (("-", change.present), ("+", change.wanted)):
            for rule in rules:
                console.print_line(f"  {sign} {json.dumps(rule)}")


def _settings(name: str | None) -> "Settings":
    from infra.settings import external_settings

    settings = external_settings(name)
    if settings is None:
        raise Refused("no bucket is named: give --bucket, or set COMFYUI_MODAL_BUCKET")
    return settings
