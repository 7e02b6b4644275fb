"""Containers: started for waiting inputs, watched, and replaced when they die.

A container is identified by its UNIX socket, because its requests carry no task id.
"""

import asyncio
import importlib.util
import os
import py_compile
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpclib.server
from modal_proto import api_pb2 as pb

from tests.plane.state import INTERNAL, Container, Function, Input, State
from tests.support.forked import fork

MAX_CONTAINERS = 8
MAX_BARREN = 4
MAX_LOST = 8
WATCH_S = 0.05
STOP_GRACE_S = 5.0
PRELOADED = (
    "modal._runtime.asgi",
    "modal._runtime.container_io_manager",
    "modal._runtime.execution_context",
    "modal._runtime.user_code_imports",
    "modal.experimental",
    "aiohttp",
    "boto3",
    "cryptography.hazmat.primitives.ciphers.aead",
    "cryptography.hazmat.primitives.kdf.hkdf",
    "filetype",
    "h11",
    "httpcore",
    "httpx",
    "obstore.store",
    "PIL.Image",
    "pydantic_settings",
    "rich.progress",
    "stamina",
    "starlette.applications",
    "starlette.middleware.cors",
    "uvicorn",
    "websockets.asyncio.client",
)
"""Imports of the project's modules, but none of these, which come from the files of the deployment."""

Serve = Callable[[Container], Any]
"""Makes the server of one container."""
Settled = Callable[[Input, Any, int], Awaitable[None]]


_COMPILED: dict[str, bytes] = {}
"""The bytecode of sources by their hash, for all planes of this process: a deployment compiles for half a second."""
CLOSING_TURNS = 5
"""Turns of the event loop in which it reads the end of a connection and closes it."""


class Containers:
    def __init__(self, state: State) -> None:
        self._state = state
        self._starting: set[asyncio.Task[None]] = set()
        self.serve: Serve | None = None
        self.finish: Callable[[Input, Any, int], None] | None = None

    async def scale(self, function: Function) -> None:
        """Start as many containers as the waiting and running inputs need, up to the function's limit."""
        spec = function.spec
        limit = spec.autoscaler_settings.max_containers or spec.concurrency_limit or MAX_CONTAINERS
        live = [c for c in self._state.containers.values() if c.function is function and not c.stopping]
        load = len(function.queue) + sum(len(container.running) for container in live)
        wanted = min(limit, -(-load // max(1, spec.target_concurrent_inputs or spec.max_concurrent_inputs)))
        for _ in range(wanted - len(live)):
            container_id = self._state.new_id("ta")
            container = Container(container_id, function, self._state.folder / container_id)
            self._state.containers[container_id] = container
            starting = asyncio.create_task(self._start(container))
            self._starting.add(starting)
            starting.add_done_callback(self._starting.discard)
            await asyncio.shield(starting)  # the client whose input needs it may go away meanwhile

    async def watch(self) -> None:
        """Requeue the inputs of dead containers, a limited number of times, without counting the function's retries."""
        while True:
            for container in list(self._state.containers.values()):
                if container.process is not None and container.process.returncode is not None:
                    await self._replace_dead(container)
            await asyncio.sleep(WATCH_S)

    async def stop(self) -> None:
        await asyncio.gather(*self._starting, return_exceptions=True)  # they would outlive the plane
        alive = [c for c in self._state.containers.values() if c.process and c.process.returncode is None]
        for container in alive:
            container.stopping = True
        async with self._state.changed:
            self._state.changed.notify_all()
        for container in list(self._state.containers.values()):
            # A container may have died since `watch` last looked: its socket is closed here then.
            await (self._end(container) if container in alive else self._close(container))

    def log(self, container: Container) -> str:
        return (container.folder / "log").read_text(errors="replace")

    async def _end(self, container: Container) -> None:
        assert container.process is not None
        container.process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await container.process.ended()
        except TimeoutError:
            container.process.kill()
            await container.process.ended()
        await self._close(container)

    async def _close(self, container: Container) -> None:
        """Close the container's socket, and its connections, which have ended with its process."""
        if container.server is None:  # its start failed before it listened
            return
        container.server.close()
        for _ in range(CLOSING_TURNS):
            await asyncio.sleep(0)

    async def _replace_dead(self, container: Container) -> None:
        function = container.function
        self._state.containers.pop(container.id)
        await self._close(container)
        async with self._state.changed:
            for entry in list(container.running.values()):
                self._put_back(entry, container)
            function.barren = 0 if container.served else function.barren + 1
            if function.barren > MAX_BARREN:
                failure = pb.GenericResult(status=INTERNAL, exception=self.log(container)[-2000:])
                while function.queue:
                    self._finish(function.queue.popleft(), failure)
            self._state.changed.notify_all()
        await self.scale(function)

    def _put_back(self, entry: Input, container: Container) -> None:
        entry.attempts.append("lost")
        entry.container = None
        if container.result is not None:
            self._finish(entry, container.result)
        elif entry.attempts.count("lost") > MAX_LOST:
            self._finish(entry, pb.GenericResult(status=INTERNAL))
        elif not entry.call.cancelled:
            container.function.queue.appendleft(entry)

    def _finish(self, entry: Input, result: Any) -> None:
        assert self.finish is not None
        self.finish(entry, result, pb.DATA_FORMAT_PICKLE)

    async def _start(self, container: Container) -> None:
        folder = container.folder
        folder.mkdir(parents=True)
        self._place_files(container)
        (folder / "args").write_bytes(self._arguments(container).SerializeToString())
        assert self.serve is not None
        container.server = grpclib.server.Server([self.serve(container)])
        await container.server.start(path=str(folder / "sock"))
        with (folder / "log").open("wb") as log:
            container.process = await asyncio.to_thread(
                fork,
                PRELOADED,
                ["modal._container_entrypoint"],
                environment=self._environment(container),
                output=log,
                errors=log,
                folder=folder,
                path=[str(folder), str(folder / "fs" / "root")],
            )

    def _place_files(self, container: Container) -> None:
        """Write only the files that the deploy uploaded, so that a module that was not added is missing here too."""
        for mount_id in container.function.spec.mount_ids:
            for file in self._state.mounts[mount_id].files:
                path = container.folder / "fs" / file.filename.lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._state.files[file.sha256_hex])
                if path.suffix == ".py":
                    self._place_bytecode(path, file.sha256_hex)

    def _place_bytecode(self, path: Path, digest: str) -> None:
        """Share the compiled bytecode, because each container would otherwise compile its own copy of the sources."""
        kept = self._state.folder / "bytecode" / f"{digest}.pyc"
        if not kept.exists():
            if digest not in _COMPILED:
                mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
                py_compile.compile(str(path), str(kept), doraise=True, invalidation_mode=mode)
                _COMPILED[digest] = kept.read_bytes()
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(_COMPILED[digest])
        cached = Path(importlib.util.cache_from_source(path))
        cached.parent.mkdir(exist_ok=True)
        cached.unlink(missing_ok=True)
        cached.hardlink_to(kept)

    def _arguments(self, container: Container) -> Any:
        function = container.function
        return pb.ContainerArguments(
            task_id=container.id,
            function_id=function.id,
            app_id=function.app_id,
            function_def=function.spec,
            serialized_params=function.params,
            app_layout=self._state.layouts[function.app_id],
            environment_name="main",
        )

    def _environment(self, container: Container) -> dict[str, str]:
        folder = container.folder
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MODAL_", "COMFYUI_"))}
        env |= self._state.container_env
        for secret_id in container.function.spec.secret_ids:
            env |= self._state.secrets[secret_id][1]
        return env | {
            "MODAL_SERVER_URL": f"unix://{folder}/sock",
            "MODAL_TASK_ID": container.id,
            "MODAL_IS_REMOTE": "1",
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(folder / "args"),
            "MODAL_CONFIG_PATH": str(folder / "none.toml"),
            "MODAL_HEARTBEAT_INTERVAL": "1",
            "PYTHONPATH": str(folder / "fs" / "root"),
            "PYTHONUNBUFFERED": "1",
        }
