"""The routes of /api/jobs in ComfyUI 0.33: the queue and the history as one list of jobs."""

import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from workers.lite.executor import Executor
from workers.lite.prompts import Prompts, QueuedPrompt, Record

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
_PREVIEWABLE = {"images", "video", "audio", "gifs", "3d"}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
"""The canonical lower-case form, the only one that is accepted."""


class JobRoutes:
    def __init__(self, prompts: Prompts, executor: Executor) -> None:
        self._prompts = prompts
        self._executor = executor

    def all(self) -> list[web.RouteDef]:
        return [
            web.get("/api/jobs", self.list),
            web.get("/api/jobs/{job_id}", self.get),
            web.post("/api/jobs/cancel", self.cancel_several),
            web.post("/api/jobs/{job_id}/cancel", self.cancel),
        ]

    async def list(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(listing(self._prompts, request.query))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    async def get(self, request: web.Request) -> web.Response:
        job = one(self._prompts, request.match_info["job_id"])
        return web.json_response({"error": "Job not found"}, status=404) if job is None else web.json_response(job)

    async def cancel(self, request: web.Request) -> web.Response:
        return web.json_response({"cancelled": self._cancel(request.match_info["job_id"])})

    async def cancel_several(self, request: web.Request) -> web.Response:
        job_ids = (await request.json()).get("job_ids", [])
        invalid = [job_id for job_id in job_ids if not UUID.fullmatch(str(job_id))]
        if invalid:
            answer = {"error": "job_ids contains invalid id(s)", "invalid_ids": invalid}
            return web.json_response(answer, status=400)
        cancelled = [self._cancel(job_id) for job_id in job_ids]
        return web.json_response({"cancelled": any(cancelled)})

    def _cancel(self, job_id: str) -> bool:
        """Cancel a prompt and return whether it was queued or running."""
        if self._prompts.is_running(job_id):
            self._executor.interrupted.set()
            return True
        return self._prompts.drop_waiting(job_id)


def listing(prompts: Prompts, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the jobs, newest first. Raises ValueError with ComfyUI's message for a bad query."""
    statuses = tuple(query["status"].split(",")) if query.get("status") else STATUSES
    unknown = [status for status in statuses if status not in STATUSES]
    if unknown:
        valid = ", ".join(STATUSES)
        raise ValueError(f"Invalid status value(s): {', '.join(unknown)}. Valid values: {valid}")
    limit, offset = _limit(query.get("limit")), int(query.get("offset", 0))
    jobs = [job for job in _all(prompts) if job["status"] in statuses]
    if "workflow_id" in query:
        jobs = [job for job in jobs if job.get("workflow_id") == query["workflow_id"]]
    jobs.sort(key=lambda job: (job["create_time"], job["priority"]), reverse=True)
    page = jobs[offset : None if limit is None else offset + limit]
    more = offset + len(page) < len(jobs)
    about = {"offset": offset, "limit": limit, "total": len(jobs), "has_more": more}
    return {"jobs": page, "pagination": about}


def one(prompts: Prompts, prompt_id: str) -> dict[str, Any] | None:
    """Return one prompt's job, or None."""
    record = prompts.find_record(prompt_id)
    if record is not None:
        return _finished(record) | {
            "outputs": record.outputs,
            "execution_status": record.status(),
            "workflow": {"prompt": record.prompt.graph, "extra_data": record.prompt.extra_data},
        }
    return next((job for job in _unfinished(prompts) if job["id"] == prompt_id), None)


def _limit(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit() or int(text) < 1:
        raise ValueError("limit must be a positive integer")
    return int(text)


def _all(prompts: Prompts) -> list[dict[str, Any]]:
    return _unfinished(prompts) + [_finished(record) for record in prompts.records()]


def _unfinished(prompts: Prompts) -> list[dict[str, Any]]:
    running, waiting = prompts.unfinished()
    return [_base(prompt, "in_progress") for prompt in running] + [_base(prompt, "pending") for prompt in waiting]


def _base(prompt: QueuedPrompt, status: str) -> dict[str, Any]:
    about: dict[str, Any] = {
        "id": prompt.prompt_id,
        "status": status,
        "priority": prompt.number,
        "create_time": prompt.extra_data["create_time"],
        "outputs_count": 0,
        "previewable_outputs_count": 0,
    }
    workflow = (prompt.extra_data.get("extra_pnginfo") or {}).get("workflow") or {}
    return about | ({"workflow_id": workflow["id"]} if "id" in workflow else {})


def _finished(record: Record) -> dict[str, Any]:
    times = [data["timestamp"] for _, data in record.messages]
    last, last_data = record.messages[-1]
    status = {"execution_success": "completed", "execution_interrupted": "cancelled"}.get(last, "failed")
    job = _base(record.prompt, status) | {"execution_start_time": times[0], "execution_end_time": times[-1]}
    shown = _shown_files(record.outputs)
    job |= {"outputs_count": len(shown), "previewable_outputs_count": len(shown)}
    if shown:
        job["preview_output"] = shown[-1]
    if status == "failed":
        job["execution_error"] = last_data
    return job


def _shown_files(outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {**entry, "nodeId": node_id, "mediaType": key}
        for node_id, ui in outputs.items()
        for key, entries in ui.items()
        if key in _PREVIEWABLE
        for entry in entries
        if isinstance(entry, dict)
    ]
