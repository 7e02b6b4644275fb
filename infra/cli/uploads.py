"""`comfyui-modal uploads put`."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from infra.cli.arguments import AsJson, Target
from infra.cli.output import Refused, Terminal, print_json
from infra.cli.submission import Files

uploads = App(name="uploads")


@uploads.command
def put(
    *files: Annotated[Path, Parameter(help="The files to upload.")], as_json: AsJson = False, target: Target = Target()
) -> None:
    """Upload files to the bucket, and print the upload id of each: for `media`, and for inputs by name."""
    if not files:
        raise Refused("name the files: `comfyui-modal uploads put FILE…`")
    console = Terminal()
    rows = []
    with target.client() as client:
        for path in files:
            rows.append({"filename": path.name, "upload_id": Files(client).upload(path)})
            if not as_json:
                # The id alone for one file, so that a shell can capture it.
                name = f"  {path.name}" if len(files) > 1 else ""
                console.print_line(f"{rows[-1]['upload_id']}{name}")
    if as_json:
        print_json(rows)
