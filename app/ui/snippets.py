"""Code that submits a job again: with curl, the Python client, and TypeScript. Pure."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pprint import pformat
from typing import Any

from storage.jobs.models import Input
from storage.jobs.record import JobRecord
from storage.keys import upload_of
from workflows.location import first_characters
from workflows.manifest import NamedWorkflow

KEY = "COMFYUI_MODAL_API_KEY"
UPLOAD = "…"
"""Stands for the upload of a file that came with the job in another way, as base64 or from a URL."""
MOST_VALUES = 16 * 1024
"""Characters of a job's inputs that the code repeats. Of a job with more, it asks the API to repeat the job."""


@dataclass(frozen=True, slots=True)
class Snippet:
    title: str
    code: str


def snippets(
    record: JobRecord, inputs: Sequence[Input], workflows: Mapping[str, NamedWorkflow], base: str
) -> list[Snippet]:
    """Return the code. It reads the key from the environment and never contains one."""
    named = workflows.get(record.workflow_name or "")
    uploads = {file.name: upload_of(file.key) or UPLOAD for file in record.input_files}
    body: dict[str, Any]
    if named is not None:
        path, body = f"/v1/workflows/{named.name}/jobs", {"inputs": _named(named, inputs, uploads)}
    else:
        values = [one.model_dump() for one in inputs]
        path, body = "/v1/jobs", {"workflow": "…", **({"inputs": values} if values else {})}
        body |= {"media": [{"name": name, "upload_id": upload} for name, upload in uploads.items()]} if uploads else {}
    if record.metadata:
        body["metadata"] = dict(record.metadata)
    if len(beginning_of_json(body, MOST_VALUES + 1)) > MOST_VALUES:
        return _retries(base, record.job_id)
    of_graph = named is None
    return [
        Snippet("curl", _curl(base, path, body, record.job_id, of_graph=of_graph)),
        Snippet("Python", _python(base, body, record, of_graph=of_graph)),
        Snippet("TypeScript", _typescript(base, path, body, record.job_id, of_graph=of_graph)),
    ]


def beginning_of_json(value: Any, length: int) -> str:
    """Return the first `length` characters of the value's JSON. What stands behind them is not read."""
    # dumps() of a large value is one call in C, which keeps the GIL; iterencode() is Python code.
    return first_characters(json.JSONEncoder(ensure_ascii=False).iterencode(value), length)


def _retries(base: str, job_id: str) -> list[Snippet]:
    """Return the code that has the API submit the job again."""
    url = f"{base}/v1/jobs/{job_id}/retry"
    auth = f'-H "Authorization: Bearer ${KEY}"'
    return [
        Snippet("curl", f"curl -X POST {shlex.quote(url)} {auth}"),
        Snippet("Python", _python_client(base, "import os", f"job = client.retry({job_id!r})")),
        Snippet(
            "TypeScript",
            _fetched(url, f"{{ Authorization: `Bearer ${{process.env.{KEY}}}` }}", "method: 'POST', headers"),
        ),
    ]


def _named(workflow: NamedWorkflow, inputs: Sequence[Input], uploads: Mapping[str, str]) -> dict[str, Any]:
    """Return the job's values by the names of the workflow's inputs."""
    given = {(one.node, one.field): one.value for one in inputs}
    found: dict[str, Any] = {}
    for name, named in workflow.manifest.inputs.items():
        place = next(named.targets())
        if place in given:
            file = str(given[place])
            medium = {"filename": file, "upload_id": uploads.get(file, UPLOAD)}
            found[name] = medium if named.is_file else given[place]
    return found


def _curl(base: str, path: str, body: Mapping[str, Any], job_id: str, *, of_graph: bool) -> str:
    auth = f'-H "Authorization: Bearer ${KEY}"'
    url = shlex.quote(f"{base}{path}")
    if not of_graph:
        document = json.dumps(body, ensure_ascii=False, indent=2)
        return f"curl {url} {auth} \\\n  -H 'Content-Type: application/json' -d {shlex.quote(document)}"
    rest = json.dumps({name: value for name, value in body.items() if name != "workflow"}, ensure_ascii=False)
    return (
        f"curl -s {shlex.quote(f'{base}/v1/jobs/{job_id}/workflow')} {auth} |\n"
        f"  jq --argjson rest {shlex.quote(rest)} '{{workflow: .}} + $rest' |\n"
        f"  curl {url} {auth} \\\n  -H 'Content-Type: application/json' -d @-"
    )


def _python(base: str, body: Mapping[str, Any], record: JobRecord, *, of_graph: bool) -> str:
    options = {name: value for name, value in body.items() if name not in ("workflow", "inputs")}
    if of_graph:
        options |= {"inputs": body["inputs"]} if "inputs" in body else {}
        # The page offers the graph under this name.
        file = f'Path("workflow-{record.job_id[:8]}.json")'
        start = f"graph = json.loads({file}.read_text())  # this page offers it\n    job = client.submit(graph"
    else:
        start = f"job = client.submit_named({record.workflow_name!r}, {_literal(body['inputs'])}"
    imports = "import json\nimport os\nfrom pathlib import Path" if of_graph else "import os"
    more = "".join(f",\n        {name}={_literal(value)}" for name, value in options.items())
    return _python_client(base, imports, f"{start}{more})")


def _python_client(base: str, imports: str, submission: str) -> str:
    return (
        f"{imports}\n\nfrom comfyui_modal_client import Client\n\n"
        f'with Client({base!r}, os.environ["{KEY}"]) as client:\n    {submission}\n'
        '    job = client.wait(job["job_id"])\n    client.download_all(job["job_id"], "outputs")'
    )


def _literal(value: Any) -> str:
    return pformat(value, width=88, sort_dicts=False).replace("\n", "\n        ")


def _typescript(base: str, path: str, body: Mapping[str, Any], job_id: str, *, of_graph: bool) -> str:
    document = json.dumps(body, ensure_ascii=False, indent=2)
    headers = f"{{ Authorization: `Bearer ${{process.env.{KEY}}}`, 'Content-Type': 'application/json' }}"
    before = ""
    if of_graph:
        graph = json.dumps(f"{base}/v1/jobs/{job_id}/workflow")
        before = f"const workflow = await (await fetch({graph}, {{ headers }})).json();\n"
        document = document.replace('"workflow": "…"', "workflow", 1)
    options = f"method: 'POST', headers, body: JSON.stringify({document}),"
    return _fetched(f"{base}{path}", headers, options, before)


def _fetched(url: str, headers: str, options: str, before: str = "") -> str:
    return (
        f"const headers = {headers};\n{before}"
        f"const answer = await fetch({json.dumps(url)}, {{\n  {options}\n}});\n"
        "const job = await answer.json();\n"
        "if (!answer.ok) throw new Error(`${job.title}: ${job.detail}`);"
    )
