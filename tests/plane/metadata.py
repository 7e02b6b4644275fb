"""The descriptions of functions for clients, and the labels of their web endpoints."""

from collections.abc import Iterator
from typing import Any

from modal_proto import api_pb2 as pb

from tests.plane.state import Function


def handle_metadata(function: Function) -> Any:
    data, spec = function.data, function.spec
    metadata = pb.FunctionHandleMetadata(
        function_name=data.function_name,
        function_type=data.function_type,
        web_url=data.web_url,
        class_parameter_info=data.class_parameter_info,
        function_schema=data.function_schema,
        definition_id="de" + function.id[2:],
        supported_input_formats=spec.supported_input_formats,
        supported_output_formats=spec.supported_output_formats,
        app_id=function.app_id,
    )
    for name, method in data.method_definitions.items():
        metadata.method_handle_metadata[name].CopyFrom(
            pb.FunctionHandleMetadata(
                function_name=method.function_name,
                function_type=method.function_type,
                web_url=method.web_url,
                is_method=True,
                use_method_name=name,
                function_schema=method.function_schema,
                app_id=function.app_id,
                supported_input_formats=method.supported_input_formats,
                supported_output_formats=method.supported_output_formats,
            )
        )
    return metadata


def web_endpoints(data: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield (method name or "", label, definition with web_url) for each web endpoint of a function."""
    if data.webhook_config.type:
        yield "", _label(data.webhook_config, data.function_name), data
    for name, method in data.method_definitions.items():
        if method.webhook_config.type:
            yield name, _label(method.webhook_config, method.function_name), method


def _label(config: Any, name: str) -> str:
    return config.requested_suffix or name.lower().replace(".", "-").replace("_", "-")
