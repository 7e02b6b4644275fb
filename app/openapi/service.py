"""The operations on the service itself."""

from app.limits import Limits
from app.openapi.operation import Operation
from app.views.system import SystemView
from app.wire.service import Health, Ready

OPERATIONS = (
    Operation(
        "get_system",
        "get",
        "/v1/system",
        "What runs here: versions, GPUs, attention",
        {200: ("the API, and the last worker of each pool", SystemView)},
    ),
    Operation(
        "get_limits", "get", "/v1/limits", "What you may send, and how much", {200: ("every limit by name", Limits)}
    ),
    Operation("get_health", "get", "/health", "Whether the process lives", {200: ("it lives", Health)}, is_open=True),
    Operation(
        "get_ready",
        "get",
        "/ready",
        "Whether the API can do its work",
        {200: ("it can", Ready), 503: ("its bucket does not take writes", Ready)},
        is_open=True,
    ),
)
