"""The whole control plane: its gRPC and HTTP servers in a thread."""

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import grpclib.const
import grpclib.server
from aiohttp import web
from google.protobuf import empty_pb2
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as pb

from tests.plane.apps import Apps
from tests.plane.calls import Calls, finish
from tests.plane.container_calls import ContainerCalls
from tests.plane.containers import Containers
from tests.plane.functions import Functions
from tests.plane.state import Call, Container, Function, Input, State
from tests.plane.web import Web

_SERVICE = pb.DESCRIPTOR.services_by_name["ModalClient"]
T = TypeVar("T")


class Plane:
    """`folder` keeps the files and log of each container; `container_env` is added to every container's environment."""

    def __init__(self, folder: Path, container_env: Mapping[str, str] | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.state = State(folder, dict(container_env or {}))
        self._containers = Containers(self.state)
        self._calls = calls = Calls(self.state, self._containers)
        self._services = (Apps(self.state, self._containers.stop), Functions(self.state), calls)
        self._container_calls = ContainerCalls(self.state, calls)
        self._containers.serve = lambda container: _Mapping(self._handlers(container))
        self._containers.finish = finish
        self._web = Web(self.state, calls)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def missing(self) -> Mapping[str, int]:
        """Return the number of requests without a handler by name."""
        return self.state.missing

    def client_env(self) -> dict[str, str]:
        """Return the environment with which the modal client uses this plane and a deploy chooses the lite engine."""
        return {
            "COMFYUI_MODAL_IMAGE": "lite",
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": "ak-loopback",
            "MODAL_TOKEN_SECRET": "as-loopback",
            "MODAL_CONFIG_PATH": str(self.state.folder / "none.toml"),
        }

    def deployed(self, app: str) -> dict[str, Function]:
        """Return the functions of a deployed app by tag."""
        ids = self.state.published[app].function_ids
        return {tag: self.state.functions[function_id] for tag, function_id in ids.items()}

    def containers_of(self, tag: str) -> list[Container]:
        return [c for c in self.state.containers.values() if c.function.data.function_name == tag]

    def call(self, app: str, tag: str) -> Any:
        """Call a deployed function as its schedule does, and return its result."""
        return self._run(self._calls.result(self.deployed(app)[tag]))

    def deliver_again(self, entry: Input) -> None:
        """Give a running input to another container as well, because delivery is at least once."""
        self._run(self._calls.deliver_again(entry))

    def cancel(self, call: Call) -> None:
        """Cancel a call, whether or not a container has taken its inputs."""
        self._run(self._calls.cancel(call))

    def forget_ended_calls(self) -> None:
        """Remove ended calls, as Modal does when their results expire."""
        ended = [call for call in self.state.calls.values() if all(entry.result is not None for entry in call.inputs)]
        for call in ended:
            del self.state.calls[call.id]

    def log(self, container: Container) -> str:
        return self._containers.log(container)

    def logs(self) -> str:
        """Return the log of every container, for a failure message."""
        return "\n".join(f"== {log.parent.name}\n{log.read_text()}" for log in self.state.folder.glob("*/log"))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> None:
        self._server: Any = grpclib.server.Server([_Mapping(self._handlers(None))])
        await self._server.start("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{_port(self._server._server)}"
        self._runner = web.AppRunner(self._web.application(), shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.state.web_url = f"http://127.0.0.1:{_port(site._server)}"
        self._watching = asyncio.create_task(self._containers.watch())

    async def _stop(self) -> None:
        self._watching.cancel()
        await self._containers.stop()
        await self._runner.cleanup()
        self._server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _handlers(self, container: Container | None) -> dict[str, Any]:
        """Return every RPC of the service, for a client or for one container."""
        built = {}
        for method in _SERVICE.methods:
            streaming = method.server_streaming
            cardinality = grpclib.const.Cardinality.UNARY_STREAM if streaming else grpclib.const.Cardinality.UNARY_UNARY
            built[f"/{_SERVICE.full_name}/{method.name}"] = grpclib.const.Handler(
                self._handler(method.name, container, streaming=streaming),
                cardinality,
                _message_class(method.input_type),
                _message_class(method.output_type),
            )
        return built

    def _handler(self, name: str, container: Container | None, *, streaming: bool) -> Any:
        answer = self._find(name, container)

        async def handle(stream: Any) -> None:
            request = await stream.recv_message()
            self.state.rpcs[name] += 1
            if answer is None:
                self.state.missing[name] += 1
                raise GRPCError(Status.UNIMPLEMENTED, f"{name} is not implemented by the loopback plane")
            if streaming:
                async for message in answer(request):
                    await stream.send_message(message)
            else:
                await stream.send_message(await answer(request))

        return handle

    def _find(self, name: str, container: Container | None) -> Any:
        if container is not None and hasattr(self._container_calls, name):
            method = getattr(self._container_calls, name)
            return lambda request: method(request, container)
        return next((getattr(service, name) for service in self._services if hasattr(service, name)), None)


class _Mapping:
    """A service as grpclib expects it."""

    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def __mapping__(self) -> dict[str, Any]:
        return self._handlers


def _message_class(descriptor: Any) -> Any:
    if descriptor.full_name == "google.protobuf.Empty":
        return empty_pb2.Empty
    return getattr(pb, descriptor.name)


def _port(server: Any) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port
