"""The routes of /api/jobs: list, get, cancel."""

from aiohttp import web

from workers.lite import jobs
from workers.lite.executor import Executor
from workers.lite.prompts import Prompts


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
            return web.json_response(jobs.listing(self._prompts, request.query))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    async def get(self, request: web.Request) -> web.Response:
        job = jobs.one(self._prompts, request.match_info["job_id"])
        return web.json_response({"error": "Job not found"}, status=404) if job is None else web.json_response(job)

    async def cancel(self, request: web.Request) -> web.Response:
        return web.json_response({"cancelled": self._cancel(request.match_info["job_id"])})

    async def cancel_several(self, request: web.Request) -> web.Response:
        job_ids = (await request.json()).get("job_ids", [])
        invalid = [job_id for job_id in job_ids if not jobs.UUID.fullmatch(str(job_id))]
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
