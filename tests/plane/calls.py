"""Function calls: queued inputs, awaited results and forwarded cancellations."""

import asyncio
import contextlib
import pickle
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

from google.protobuf import empty_pb2
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as pb

from tests.plane.containers import Containers
from tests.plane.state import FAILURE, SUCCESS, TERMINATED, TIMED_OUT, Call, Function, Input, State

STREAM_S = 55.0
"""The duration of one request for a stream, which the client repeats."""
BACKOFF_SCALE = 0.1
"""Retries wait for a tenth of the cloud's back-off."""


class Calls:
    def __init__(self, state: State, containers: Containers) -> None:
        self._state = state
        self._containers = containers

    def new_call(self, function_id: str, invocation: int) -> Call:
        call = Call(self._state.new_id("fc"), function_id, invocation)
        self._state.calls[call.id] = call
        return call

    async def put(self, call: Call, items: Iterable[Any]) -> list[Any]:
        """Queue the inputs, and start containers for them."""
        function = self._state.functions[call.function_id]
        answers = []
        async with self._state.changed:
            for item in items:
                entry = Input(self._state.new_id("in"), call, item.idx, item.input)
                call.inputs.append(entry)
                self._state.inputs[entry.id] = entry
                function.queue.append(entry)
                answers.append(pb.FunctionPutInputsResponseItem(idx=item.idx, input_id=entry.id, input_jwt=entry.id))
            self._state.changed.notify_all()
        await self._containers.scale(function)
        return answers

    async def result(self, function: Function) -> Any:
        """Call a function without arguments, as its schedule does, and return its result."""
        call = self.new_call(function.id, pb.FUNCTION_CALL_INVOCATION_TYPE_SYNC)
        await self.put(call, [pb.FunctionPutInputsItem(idx=0, input=input_of())])
        (entry,) = call.inputs
        async with self._state.changed:
            await self._state.changed.wait_for(lambda: entry.result is not None)
        result = entry.result.result
        assert result.status == SUCCESS, result.exception
        return pickle.loads(result.data)  # noqa: S301  the data come from the plane's own containers

    async def FunctionMap(self, request: Any) -> Any:
        if self._state.functions[request.function_id].data.function_name == self._state.refuses_calls_of:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, "too many inputs wait for this function")
        call = self.new_call(request.function_id, request.function_call_invocation_type)
        return pb.FunctionMapResponse(
            function_call_id=call.id,
            function_call_jwt=call.id,
            max_inputs_outstanding=1000,
            retry_policy=self._state.functions[request.function_id].spec.retry_policy,
            pipelined_inputs=await self.put(call, request.pipelined_inputs),
        )

    async def FunctionPutInputs(self, request: Any) -> Any:
        inputs = await self.put(self._call(request.function_call_id), request.inputs)
        return pb.FunctionPutInputsResponse(inputs=inputs)

    async def FunctionGetOutputs(self, request: Any) -> Any:
        call = self._call(request.function_call_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(request.timeout), self._state.changed:
                await self._state.changed.wait_for(lambda: _ready(call, request))
        ready = _ready(call, request)
        return pb.FunctionGetOutputsResponse(
            outputs=ready,
            idxs=[output.idx for output in ready],
            num_unfinished_inputs=sum(entry.result is None for entry in call.inputs),
        )

    async def FunctionCallFromId(self, request: Any) -> Any:
        call = self._call(request.function_call_id)
        return pb.FunctionCallFromIdResponse(function_call_id=call.id, num_inputs=len(call.inputs))

    async def FunctionCallCancel(self, request: Any) -> Any:
        """End queued inputs at once; the containers of running inputs learn of it by their heartbeats."""
        await self.cancel(self._call(request.function_call_id))
        return empty_pb2.Empty()

    async def cancel(self, call: Call) -> None:
        call.cancelled = True
        async with self._state.changed:
            for entry in call.inputs:
                if entry.result is not None:
                    continue
                if entry.container is None:
                    with contextlib.suppress(ValueError):
                        self._state.functions[call.function_id].queue.remove(entry)
                    finish(entry, pb.GenericResult(status=TERMINATED), 0)
                else:
                    entry.container.to_cancel.append(entry.id)
            self._state.changed.notify_all()

    async def settle(self, entry: Input, result: Any, data_format: int) -> None:
        """Store a result, retry by the function's policy, or run a preempted input again."""
        function = self._state.functions[entry.call.function_id]
        for container in self._state.containers.values():
            container.running.pop(entry.id, None)
        entry.container = None
        policy = function.spec.retry_policy
        if result.status == TERMINATED and not entry.call.cancelled:
            entry.attempts.append("lost")
        elif result.status in (FAILURE, TIMED_OUT) and entry.retry_count < policy.retries and not entry.call.cancelled:
            entry.retry_count += 1
            backoff_ms = policy.initial_delay_ms * policy.backoff_coefficient ** (entry.retry_count - 1)
            await asyncio.sleep(min(backoff_ms, policy.max_delay_ms) / 1000 * BACKOFF_SCALE)
        else:
            async with self._state.changed:
                with contextlib.suppress(ValueError):  # a repeated delivery that no container has taken yet
                    function.queue.remove(entry)
                finish(entry, result, data_format)
                self._state.changed.notify_all()
            return
        async with self._state.changed:
            function.queue.appendleft(entry)
            self._state.changed.notify_all()
        await self._containers.scale(function)

    async def deliver_again(self, entry: Input) -> None:
        """Queue an input as if its container were dead, while that container continues to run it."""
        function = self._state.functions[entry.call.function_id]
        async with self._state.changed:
            function.queue.appendleft(entry)
            self._state.changed.notify_all()
        await self._containers.scale(function)

    # The streams of web requests.

    async def FunctionCallGetDataIn(self, request: Any) -> AsyncIterator[Any]:
        async for chunk in self.stream(self._call(request.function_call_id).data_in, request.last_index):
            yield chunk

    async def FunctionCallGetDataOut(self, request: Any) -> AsyncIterator[Any]:
        async for chunk in self.stream(self._call(request.function_call_id).data_out, request.last_index):
            yield chunk

    async def FunctionCallPutDataOut(self, request: Any) -> Any:
        async with self._state.changed:
            self._call(request.function_call_id).data_out.extend(request.data_chunks)
            self._state.changed.notify_all()
        return empty_pb2.Empty()

    async def stream(self, chunks: list[Any], last: int) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STREAM_S
        while (left := deadline - loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left), self._state.changed:
                    await self._state.changed.wait_for(lambda seen=last: len(chunks) > seen)  # type: ignore[misc]
            for chunk in chunks[last:]:
                last = chunk.index
                yield chunk

    def _call(self, call_id: str) -> Call:
        call = self._state.calls.get(call_id)
        if call is None:
            raise GRPCError(Status.NOT_FOUND, f"no call {call_id}")
        return call


def input_of(*arguments: Any, method: str = "") -> Any:
    """Return an input with these arguments, for a `method` if it belongs to a class."""
    pickled = pickle.dumps((arguments, {}))
    return pb.FunctionInput(args=pickled, data_format=pb.DATA_FORMAT_PICKLE, method_name=method)


def finish(entry: Input, result: Any, data_format: Any) -> None:
    if entry.container is not None:
        entry.container.running.pop(entry.id, None)
    entry.result = pb.FunctionGetOutputsItem(
        result=result,
        idx=entry.index,
        input_id=entry.id,
        data_format=data_format,
        retry_count=entry.retry_count,
        output_created_at=time.time(),
    )


def _ready(call: Call, request: Any) -> list[Any]:
    wanted = range(request.start_idx, request.end_idx + 1) if request.HasField("start_idx") else None
    return [
        entry.result for entry in call.inputs if entry.result is not None and (wanted is None or entry.index in wanted)
    ]
