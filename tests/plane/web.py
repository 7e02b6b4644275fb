"""Web endpoints and blobs. Each HTTP request is a call with the ASGI scope as its input and the messages as its
streams."""

import hashlib
from typing import Any

from aiohttp import web
from modal_proto import api_pb2 as pb

from tests.plane.calls import Calls, input_of
from tests.plane.metadata import web_endpoints
from tests.plane.state import Call, Function, State

MAX_BODY = 1 << 30


class Web:
    def __init__(self, state: State, calls: Calls) -> None:
        self._state = state
        self._calls = calls

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/_blob/{blob_id}", self._blob)
        app.router.add_route("*", "/{label}{path:.*}", self._serve)
        return app

    async def _blob(self, request: web.Request) -> web.Response:
        blob_id = request.match_info["blob_id"]
        if request.method == "PUT":
            body = self._state.blobs[blob_id] = await request.read()
            digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
            return web.Response(headers={"ETag": f'"{digest}"'})
        return web.Response(body=self._state.blobs[blob_id])

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        found = self._endpoint(request.match_info["label"])
        if found is None:
            return web.Response(status=404, text="modal-http: invalid function call")
        function, method = found
        call = self._calls.new_call(function.id, pb.FUNCTION_CALL_INVOCATION_TYPE_SYNC)
        body = pb.Asgi.HttpRequest(body=await request.read(), more_body=False)
        _append(call.data_in, pb.Asgi(http_request=body))
        item = pb.FunctionPutInputsItem(idx=0, input=input_of(_scope(request), method=method))
        await self._calls.put(call, [item])
        response = await self._answer(request, call)
        async with self._state.changed:
            _append(call.data_in, pb.Asgi(http_disconnect=pb.Asgi.HttpDisconnect()))
            self._state.changed.notify_all()
        return response

    async def _answer(self, request: web.Request, call: Call) -> web.StreamResponse:
        response = web.StreamResponse(status=500)
        async for chunk in self._calls.stream(call.data_out, 0):
            message = pb.Asgi.FromString(chunk.data or self._state.blobs[chunk.data_blob_id])
            kind = message.WhichOneof("type")
            if kind == "http_response_start":
                start = message.http_response_start
                response = web.StreamResponse(status=start.status)
                for name, value in zip(start.headers[::2], start.headers[1::2], strict=True):
                    if name.lower() != b"content-length":
                        response.headers.add(name.decode(), value.decode())
                await response.prepare(request)
            elif kind == "http_response_body":
                await response.write(message.http_response_body.body)
                if not message.http_response_body.more_body:
                    break
        await response.write_eof()
        return response

    def _endpoint(self, label: str) -> tuple[Function, str] | None:
        for function in self._state.functions.values():
            for method, known, _ in web_endpoints(function.data):
                if known == label:
                    return function, method
        return None


def _scope(request: web.Request) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https",
        "path": request.match_info["path"] or "/",
        "query_string": request.query_string.encode(),
        "headers": [(name.lower(), value) for name, value in request.raw_headers],
        "client": ("127.0.0.1", 1),
        "extensions": {},
    }


def _append(chunks: list[Any], message: Any) -> None:
    data = message.SerializeToString()
    chunks.append(pb.DataChunk(data_format=pb.DATA_FORMAT_ASGI, data=data, index=len(chunks) + 1))
