"""The entry point of the local API.

`comfyui-modal up` starts it as `infra.local.api_process --fd N`, where N is an inherited listening socket.
`comfyui-modal api` starts it alone with `--host` and `--port`.
"""

import argparse
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import uvicorn

import comfyui_modal
from app.asgi import create_app
from app.heavy import yield_soon
from infra.compose.api import api_services
from infra.compose.stores import api_s3_config
from infra.local.children import parent_gone
from infra.local.guarded_http import Guard
from infra.local.host import BACKLOG, LOOPBACK, CannotListen, listening
from infra.local.processes import is_child, local_stores, run, say_ready
from infra.memory import bound_malloc, freeze_heap, keep_trimmed
from infra.settings import Settings
from storage.bucket.clock_skew import warn_of_wrong_clock
from storage.concurrency import in_background
from storage.launcher import NoLauncher

FILES = 65_536
"""The limit for open files. Every connection accepted within `HeadLimits.grace_s` stays open, hence many files."""
ACCEPTED_AT_ONCE = 16
"""Connections that the event loop accepts before it does anything else. A client that connects and closes again costs
an iteration of the loop more than itself, and uvicorn's default of 2,048 lets such clients fill each."""
GRACEFUL_S = 3
"""Time for open requests to end. Long polls are answered at once."""


class _Server(uvicorn.Server):
    """A server that announces that it is ready and ends with its parent. uvicorn handles signals."""

    def __init__(self, config: uvicorn.Config, settings: Settings, before_end: Callable[[], None]) -> None:
        super().__init__(config)
        self._settings = settings
        self._before_end = before_end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # asyncio has set it to the number that it accepts at once
        say_ready(self._settings)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._before_end()  # answers the long polls, for which uvicorn would wait otherwise
        await super().shutdown(sockets)

    async def end_with_parent(self) -> None:
        await (await parent_gone()).wait()
        self.should_exit = True


def server_config(app: Callable[..., Any]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Guard().protocol,  # type: ignore[arg-type]  # typed as a class, used as a factory
        ws="none",
        backlog=ACCEPTED_AT_ONCE,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACEFUL_S,
        server_header=False,
        proxy_headers=False,  # links come from the setting `public_url`, never from a client's headers
    )


async def serve(settings: Settings, listener: socket.socket) -> None:
    async with local_stores(settings, api_s3_config(settings)) as stores:
        app = create_app(api_services(settings, stores, NoLauncher(), is_of_up=is_child(settings)))
        server = _Server(server_config(app), settings, app.state.context.end_waits)
        freeze_heap()
        # The worker of `up` checks this machine's clock, and the bucket's first LIST loads a client of 16 MB.
        if is_child(settings):
            own = server.end_with_parent()
        else:
            own = warn_of_wrong_clock(stores.objects, stores.clock, settings.lease_s)
        async with in_background(own, keep_trimmed()):
            await server.serve(sockets=[listener])


def _allow_many_files() -> None:
    """Raise the limit for open files, which includes connections."""
    # Some systems allow a process 256 files unless it raises its soft limit.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, help="an inherited listening socket")
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    _allow_many_files()
    yield_soon()
    bound_malloc()  # before the first thread, since existing arenas stay
    try:
        with _listener(arguments) as listener:
            return run(lambda settings: serve(settings, listener))
    except CannotListen as fault:
        return comfyui_modal.refuse(str(fault))


def _listener(arguments: argparse.Namespace) -> AbstractContextManager[socket.socket]:
    if arguments.fd is not None:
        return socket.socket(fileno=arguments.fd)
    return listening(arguments.host, arguments.port)


if __name__ == "__main__":
    sys.exit(main())
