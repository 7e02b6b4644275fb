"""Functions and classes: created by a deploy and found by name."""

from typing import Any

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as pb

from tests.plane.metadata import handle_metadata, web_endpoints
from tests.plane.state import Function, State

_COPIED = (
    "module_name",
    "function_name",
    "function_type",
    "webhook_config",
    "schedule",
    "is_class",
    "class_parameter_info",
    "timeout_secs",
    "startup_timeout_secs",
    "autoscaler_settings",
    "function_schema",
    "method_definitions_set",
    "implementation_name",
    "untrusted",
)
"""The fields that FunctionData copies from a single Function if the client sent no ranked list."""


class Functions:
    def __init__(self, state: State) -> None:
        self._state = state

    async def FunctionPrecreate(self, request: Any) -> Any:
        function_id = request.existing_function_id or self._state.new_id("fu")
        data = pb.FunctionData(
            function_name=request.function_name,
            function_type=request.function_type,
            function_schema=request.function_schema,
        )
        for name, method in request.method_definitions.items():
            data.method_definitions[name].CopyFrom(method)
        data.ranked_functions.add(
            function=pb.Function(
                supported_input_formats=request.supported_input_formats,
                supported_output_formats=request.supported_output_formats,
            )
        )
        metadata = handle_metadata(Function(function_id, request.app_id, data))
        return pb.FunctionPrecreateResponse(function_id=function_id, handle_metadata=metadata)

    async def FunctionCreate(self, request: Any) -> Any:
        data = pb.FunctionData()
        data.CopyFrom(request.function_data)
        if not data.ranked_functions:
            _fill(data, request.function)
        for _, label, definition in web_endpoints(data):
            definition.web_url = f"{self._state.web_url}/{label}"
        function_id = request.existing_function_id or self._state.new_id("fu")
        self._state.unbind(function_id)
        function = self._state.functions[function_id] = Function(function_id, request.app_id, data)
        return pb.FunctionCreateResponse(
            function_id=function_id,
            function=function.spec,
            function_data=data,
            handle_metadata=handle_metadata(function),
        )

    async def ClassCreate(self, request: Any) -> Any:
        class_id = request.existing_class_id or self._state.new_id("cs")
        return pb.ClassCreateResponse(class_id=class_id, handle_metadata=pb.ClassHandleMetadata())

    async def ClassGet(self, request: Any) -> Any:
        published = self._state.published.get(request.app_name)
        if published is None or request.object_tag not in published.class_ids:
            raise GRPCError(Status.NOT_FOUND, f"no class {request.object_tag} in {request.app_name}")
        class_id = published.class_ids[request.object_tag]
        return pb.ClassGetResponse(class_id=class_id, handle_metadata=pb.ClassHandleMetadata())

    async def FunctionGet(self, request: Any) -> Any:
        function = self._state.function_of(request.app_name, request.object_tag)
        if function is None:
            raise GRPCError(Status.NOT_FOUND, f"no function {request.object_tag} in {request.app_name}")
        return pb.FunctionGetResponse(
            function_id=function.id, handle_metadata=handle_metadata(function), function=function.data
        )

    async def FunctionGetById(self, request: Any) -> Any:
        function = self._state.functions[request.function_id]
        return pb.FunctionGetByIdResponse(handle_metadata=handle_metadata(function), function=function.data)

    async def FunctionGetCurrentStats(self, request: Any) -> Any:
        function = self._state.functions[request.function_id]
        live = [c for c in self._state.containers.values() if c.function is function and not c.stopping]
        return pb.FunctionStats(
            backlog=len(function.queue),
            num_total_tasks=len(live),
            num_running_inputs=sum(len(container.running) for container in live),
        )

    async def FunctionGetSchedulingParams(self, request: Any) -> Any:
        settings = self._state.functions[request.function_id].spec.autoscaler_settings
        configuration = pb.AutoscalerConfiguration(settings=settings)
        return pb.FunctionGetSchedulingParamsResponse(autoscaler_configuration=configuration)

    async def FunctionUpdateSchedulingParams(self, request: Any) -> Any:
        """Change the settings until the function is created again, as in the cloud."""
        settings = self._state.functions[request.function_id].spec.autoscaler_settings
        settings.MergeFrom(request.settings)
        return pb.FunctionUpdateSchedulingParamsResponse(current_settings=settings)

    async def FunctionBindParams(self, request: Any) -> Any:
        """Return a class instance; equal parameters and options give the same function."""
        key = request.SerializeToString(deterministic=True)
        if key not in self._state.bound:
            base = self._state.functions[request.function_id]
            data = pb.FunctionData()
            data.CopyFrom(base.data)
            if request.function_options.HasField("resources"):
                for ranked in data.ranked_functions:
                    ranked.function.resources.CopyFrom(request.function_options.resources)
            function_id = self._state.new_id("fu")
            self._state.functions[function_id] = Function(function_id, base.app_id, data, request.serialized_params)
            self._state.bound[key] = function_id
        function = self._state.functions[self._state.bound[key]]
        return pb.FunctionBindParamsResponse(bound_function_id=function.id, handle_metadata=handle_metadata(function))


def _fill(data: Any, function: Any) -> None:
    for name in _COPIED:
        value = getattr(function, name)
        if not hasattr(value, "CopyFrom"):
            setattr(data, name, value)
        elif function.HasField(name):
            getattr(data, name).CopyFrom(value)
    for name, method in function.method_definitions.items():
        data.method_definitions[name].CopyFrom(method)
    data.ranked_functions.add(rank=0, function=function)
