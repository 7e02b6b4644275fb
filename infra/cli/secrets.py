"""`comfyui-modal secrets new`: the values of a deployment's secret, made here and stored nowhere."""

import base64
import secrets as random
import shlex
import sys
from typing import Annotated, Literal

from cyclopts import App, Parameter

secrets = App(name="secrets")

PLACEHOLDERS = {
    "COMFYUI_MODAL_BUCKET": "YOUR_BUCKET",
    "COMFYUI_MODAL_S3_ACCESS_KEY": "YOUR_ACCESS_KEY_ID",
    "COMFYUI_MODAL_S3_SECRET_KEY": "YOUR_SECRET_ACCESS_KEY",
}
"""What only the owner of the bucket knows."""


@secrets.command
def new(
    *,
    ed25519: Annotated[
        bool, Parameter(help="make COMFYUI_MODAL_WEBHOOK_SIGNING_KEY too, which signs with ed25519", negative="")
    ] = False,
    form: Annotated[
        Literal["both", "env", "modal"], Parameter(name="--format", help="a .env file, Modal's command line, or both")
    ] = "both",
) -> None:
    """Print new values for every secret of a deployment, to paste. YOUR_… is for you to fill in."""
    from infra.settings import DeploymentSettings

    values = PLACEHOLDERS | _made(ed25519=ed25519)
    if form != "modal":
        sys.stdout.write("".join(f"{name}={value}\n" for name, value in values.items()))
    if form == "both":
        sys.stdout.write("\n")
    if form != "env":
        words = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
        sys.stdout.write(" \\\n  ".join((f"modal secret create {DeploymentSettings().secret}", *words)) + "\n")


def _made(*, ed25519: bool) -> dict[str, str]:
    from storage.webhooks.signing import PRIVATE_KEY_PREFIX, new_secret

    made = {
        "COMFYUI_MODAL_API_KEY": f"ck_modal_{random.token_urlsafe(24)}",
        "COMFYUI_MODAL_WEBHOOK_SECRET": new_secret(),
    }
    if ed25519:
        seed = base64.b64encode(random.token_bytes(32)).decode()
        made["COMFYUI_MODAL_WEBHOOK_SIGNING_KEY"] = PRIVATE_KEY_PREFIX + seed
    return made
