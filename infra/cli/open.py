"""`comfyui-modal open`: the pages of a deployment in the browser, logged in."""

import html
import os
import re
import shutil
import sys
import tempfile
import time
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from infra.cli.arguments import Target
from infra.cli.output import UNREACHABLE, Refused, Terminal

TIMEOUT_S = 15.0
LINK_LIFE_S = 60.0
"""A link works no longer."""
_FOLDER = "comfyui-modal-open-"
_PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={link}">
<title>ComfyUI Modal API</title>
<p><a href="{link}">Open the pages</a>, within a minute.</p>
"""
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
    remove_old_files()
    file = link_file(link)
    notes = Terminal(stderr=True)
    if webbrowser.open(file.as_uri()):
        notes.print_line(f"if the browser may not read {file}, as in a sandbox: `comfyui-modal open --print`")
        return
    shutil.rmtree(file.parent)
    notes.print_line("no browser could be opened; open this link within a minute:")
    sys.stdout.write(f"{link}\n")


def link_file(link: str) -> Path:
    """Write a file that leads the browser to the link. Other users of the machine cannot read it.

    They can read the arguments of every process, the browser's too, and could use a link there before its owner.
    """
    file = Path(tempfile.mkdtemp(prefix=_FOLDER)) / "open.html"  # a folder of mode 0700
    with open(file, "x", opener=lambda path, flags: os.open(path, flags, 0o600), encoding="utf-8") as page:
        page.write(_PAGE.format(link=html.escape(link)))
    return file


def remove_old_files() -> None:
    """Remove the files of earlier calls whose links have expired. A browser may be slow to read a newer one."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with suppress(FileNotFoundError):  # another call removes them too
            about = folder.lstat()
            if about.st_uid == os.getuid() and about.st_mtime < time.time() - LINK_LIFE_S:
                shutil.rmtree(folder, ignore_errors=True)


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
