"""The requests of containers. Each handler also gets the container that sent the request."""

import asyncio
import contextlib
from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2 as pb

from tests.plane.calls import Calls
from tests.plane.state import TIMED_OUT, Container, Input, State

DEFAULT_IDLE_S = 60


class ContainerCalls:
    def __init__(self, state: State, calls: Calls) -> None:
        self._state = state
        self._calls = calls
        self._settling: set[asyncio.Task[None]] = set()

    async def ContainerHello(self, _: Any, __: Container) -> Any:
        return empty_pb2.Empty()

    async def ContainerHeartbeat(self, _: Any, container: Container) -> Any:
        """Return the cancelled inputs."""
        if not container.to_cancel:
            return pb.ContainerHeartbeatResponse()
        cancelled, container.to_cancel = container.to_cancel, []
        return pb.ContainerHeartbeatResponse(cancel_input_event=pb.CancelInputEvent(input_ids=cancelled))

    async def ContainerStop(self, _: Any, container: Container) -> Any:
        """Mark a container that accepts no more inputs."""
        container.stopping = True
        return pb.ContainerStopResponse()

    async def FunctionGetInputs(self, _: Any, container: Container) -> Any:
        """Return the next input, or the kill switch after the idle window."""
        function = container.function
        idle_s = function.spec.autoscaler_settings.scaledown_window or DEFAULT_IDLE_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(idle_s), self._state.changed:
                await self._state.changed.wait_for(lambda: function.queue or container.stopping)
        if container.stopping or not function.queue:
            container.stopping = True
            return pb.FunctionGetInputsResponse(inputs=[pb.FunctionGetInputsItem(kill_switch=True)])
        entry = function.queue.popleft()
        entry.container = container
        entry.attempts.append(container.id)
        container.running[entry.id] = entry
        container.served += 1
        if limit_s := function.spec.timeout_secs:
            asyncio.get_running_loop().call_later(limit_s, self._time_out, entry, container, len(entry.attempts))
        item = pb.FunctionGetInputsItem(
            input_id=entry.id,
            input=entry.message,
            function_call_id=entry.call.id,
            function_call_invocation_type=entry.call.invocation,
            retry_count=entry.retry_count,
        )
        return pb.FunctionGetInputsResponse(inputs=[item])

    async def FunctionPutOutputs(self, request: Any, _: Container) -> Any:
        for output in request.outputs:
            entry = self._state.inputs.get(output.input_id)
            if entry is not None and entry.result is None and output.retry_count == entry.retry_count:
                self._settle(entry, output.result, output.data_format)
        return empty_pb2.Empty()

    async def FunctionGetDynamicConcurrency(self, request: Any, _: Container) -> Any:
        return pb.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    async def TaskResult(self, request: Any, container: Container) -> Any:
        container.result = request.result
        return empty_pb2.Empty()

    def _time_out(self, entry: Input, container: Container, attempt: int) -> None:
        if entry.result is None and entry.container is container and len(entry.attempts) == attempt:
            entry.attempts.append("timeout")
            container.running.pop(entry.id, None)
            if container.process is not None:
                container.process.kill()
            words = f"Task's current input hit its timeout of {container.function.spec.timeout_secs}s"
            self._settle(entry, pb.GenericResult(status=TIMED_OUT, exception=words), 0)

    def _settle(self, entry: Input, result: Any, data_format: int) -> None:
        task = asyncio.create_task(self._calls.settle(entry, result, data_format))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
