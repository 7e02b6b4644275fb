"""/ui: the pages for operators. They call the same functions as the handlers of /v1, and carry no script but ours."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from app.api.context import Context
from app.auth import Doorkeeper
from app.problems import Problem, of_os_error, of_storage
from app.ui import batches, job, jobs, keys, live, login, static, system, trial, uploads, usage, webhooks, workflows
from app.ui.guard import ROOT
from app.ui.pages import environment, problem_page
from app.ui.routing import page, see_other
from app.ui.sessions import Sessions
from storage.errors import StorageError


def pages(context: Context, door: Doorkeeper, sessions: Sessions) -> list[Mount | Route]:
    """Return the routes of the pages, for the application of the API."""
    environment()  # parsed now, so that no request waits for it
    made = Starlette(
        routes=ROUTES,
        exception_handlers={
            Problem: _on_problem,
            StorageError: _on_storage_error,
            OSError: _on_os_error,
            HTTPException: _on_http_exception,
        },
    )
    made.router.redirect_slashes = False
    made.state.context, made.state.door, made.state.sessions = context, door, sessions
    return [Route(ROOT, home, methods=["GET"], name="ui_root"), Mount(ROOT, app=made)]


async def home(_: Request) -> Response:
    return see_other("/jobs")


ROUTES = (
    page("/", home, "home"),
    *login.ROUTES,
    *jobs.ROUTES,
    *job.ROUTES,
    *live.ROUTES,
    *workflows.ROUTES,
    *uploads.ROUTES,
    *trial.ROUTES,
    *batches.ROUTES,
    *webhooks.ROUTES,
    *usage.ROUTES,
    *keys.ROUTES,
    *system.ROUTES,
    *static.ROUTES,
)


async def _on_problem(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)  # noqa: S101  the type that the handler is registered for
    return problem_page(request, problem)


async def _on_storage_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StorageError)  # noqa: S101  as above
    return problem_page(request, of_storage(error, may_have_written=request.state.budget.may_have_written))


async def _on_os_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)  # noqa: S101  as above
    return problem_page(request, of_os_error(error))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    slug = "method-not-allowed" if getattr(error, "status_code", 404) == 405 else "not-found"
    return problem_page(request, Problem(slug, "there is no such page"))
