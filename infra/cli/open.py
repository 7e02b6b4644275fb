"""`comfyui-modal open`: the pages of a deployment in the browser, logged in."""

import re
import sys
import webbrowser
from typing import Annotated

from cyclopts import Parameter

from infra.cli.arguments import Target
from infra.cli.output import UNREACHABLE, Refused, Terminal

TIMEOUT_S = 15.0
_LINK = re.compile(r"/ui/open\?token=[A-Za-z0-9_.-]+", re.ASCII)


def open_pages(
    *,
    print_only: Annotated[
        bool, Parameter(name="--print", help="print the link instead of opening it", negative="")
    ] = False,
    target: Target = Target(),
) -> None:
    """Log the browser in by a link that works once, within a minute. The key itself does not get into the browser."""
    link = _link(target)
    if print_only:
        sys.stdout.write(f"{link}\n")
        return
    if not webbrowser.open(link):
        Terminal(stderr=True).print_line("no browser could be opened; open this link within a minute:")
        sys.stdout.write(f"{link}\n")


def _link(target: Target) -> str:
    import httpx

    url, key = target.address()
    base = url.rstrip("/")
    try:
        answer = httpx.post(f"{base}/ui/links", headers={"authorization": f"Bearer {key}"}, timeout=TIMEOUT_S)
    except httpx.HTTPError as error:
        raise Refused(f"{base} does not answer: {error}\n  → {target.source(url)}", UNREACHABLE) from None
    if answer.status_code == 404:
        raise Refused(f"{base} serves no pages\n  → start it with COMFYUI_MODAL_UI=true")
    try:
        document = answer.json()
        if answer.status_code == 201:
            # A path such as `@another.host/` would lead to another server.
            if (link := _LINK.fullmatch(document["path"])) is not None:
                return f"{base}{link[0]}"
            raise Refused(f"{base} answered with another address than its own")
        raise Refused(f"{base} refused: {document['detail']}\n  → {document['hint']}")
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{base} answered {answer.status_code}, and not as this API does") from None
