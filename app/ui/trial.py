"""Try a graph once: pasted or read from a file, as ComfyUI exports it, with the input files that it loads."""

import json

from starlette.requests import Request
from starlette.responses import Response

from app.api.context import context_of, json_text, principal_of, tenant_of
from app.api.submissions import run_graph
from app.heavy import off_loop
from app.outcome import outcome_of
from app.submission.acceptance import Identity
from app.ui.forms import form_body
from app.ui.job import live_values
from app.ui.pages import render
from app.ui.routing import action, form, is_fragment, page, see_other

MOST_SHOWN = 1024 * 1024
"""Bytes of an earlier job's graph that the form repeats."""


async def show(request: Request) -> Response:
    graph, job_id = "", request.query_params.get("from")
    if job_id is not None:
        document = await context_of(request).stores.jobs.workflow(tenant_of(request), job_id)
        graph = await off_loop(_indented, document) if len(document) <= MOST_SHOWN else ""
    return render(request, "trial.html", graph=graph)


async def run(request: Request) -> Response:
    context, fields = context_of(request), form(request)
    media = []
    if upload := fields.get("upload.file"):
        name = fields.get("name", "").strip() or fields.get("filename.file") or "input.png"
        media.append({"name": name, "upload_id": upload})
    with form_body(request) as body:
        graph = await json_text(request, body, fields.get("graph", "").encode())
        document = {"workflow": graph, "media": media}
        accepted = await run_graph(context, principal_of(request), document, body, Identity(None, body.fingerprint))
    outcome_of(request.scope).jobs_accepted = 1
    if not is_fragment(request):
        return see_other(f"/jobs/{accepted.stored.record.job_id}")
    return render(request, "fragments/run.html", **live_values(request, context, accepted.stored))


def _indented(document: bytes) -> str:
    return json.dumps(json.loads(document), indent=2, ensure_ascii=False)


ROUTES = (page("/try", show, "show_trial"), action("/try", run, "run_trial"))
