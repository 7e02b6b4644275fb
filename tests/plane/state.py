"""The state of the control plane, shared by its services."""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modal_proto import api_pb2 as pb

from tests.support.forked import Forked

SUCCESS = pb.GenericResult.GENERIC_STATUS_SUCCESS
FAILURE = pb.GenericResult.GENERIC_STATUS_FAILURE
TERMINATED = pb.GenericResult.GENERIC_STATUS_TERMINATED
TIMED_OUT = pb.GenericResult.GENERIC_STATUS_TIMEOUT
INTERNAL = pb.GenericResult.GENERIC_STATUS_INTERNAL_FAILURE


@dataclass(slots=True, eq=False)
class Call:
    """One FunctionCall. `data_in` and `data_out` are the streams of a web request."""

    id: str
    function_id: str
    invocation: Any = 0
    inputs: list["Input"] = field(default_factory=list)
    data_in: list[Any] = field(default_factory=list)
    data_out: list[Any] = field(default_factory=list)
    cancelled: bool = False


@dataclass(slots=True, eq=False)
class Input:
    """One input of a call. `attempts` lists its containers, with "lost" and "timeout" between them."""

    id: str
    call: Call
    index: int
    message: Any
    retry_count: int = 0
    container: "Container | None" = None
    result: Any = None
    attempts: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Function:
    """A deployed function, class service or web endpoint; `params` are those of a bound class."""

    id: str
    app_id: str
    data: Any
    params: bytes = b""
    queue: deque[Input] = field(default_factory=deque)
    barren: int = 0
    """The number of consecutive containers that ended without serving an input."""

    @property
    def spec(self) -> Any:
        """Return the definition that containers get."""
        return self.data.ranked_functions[0].function


@dataclass(slots=True, eq=False)
class Container:
    """One task: a real process of `modal._container_entrypoint`."""

    id: str
    function: Function
    folder: Path
    process: Forked | None = None
    server: Any = None
    running: dict[str, Input] = field(default_factory=dict)
    to_cancel: list[str] = field(default_factory=list)
    stopping: bool = False
    served: int = 0
    result: Any = None


@dataclass(slots=True)
class State:
    """The state; `changed` guards everything that a request may wait for."""

    folder: Path
    container_env: Mapping[str, str]
    web_url: str = ""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    rpcs: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    apps: dict[str, str] = field(default_factory=dict)
    layouts: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    bound: dict[bytes, str] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    inputs: dict[str, Input] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    secrets: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    refuses_calls_of: str = ""
    """The tag of a function with too many waiting calls."""
    volumes: dict[str, str] = field(default_factory=dict)
    has_open_files: bool = False
    """Whether open files prevent volumes from being reloaded."""
    mounts: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    images: dict[bytes, str] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def new_id(self, prefix: str) -> str:
        """Return an id like Modal's: two letters and 22 characters."""
        return f"{prefix}-{next(self._numbers):022d}"

    def unbind(self, function_id: str) -> None:
        """Remove the variants of a class, because a new deploy starts with new ones."""
        of = pb.FunctionBindParamsRequest.FromString
        self.bound = {key: bound for key, bound in self.bound.items() if of(key).function_id != function_id}

    def bound_to(self, parameter: str) -> str:
        """Return the id of the only class instance with this parameter."""
        (found,) = (bound for bound in self.bound.values() if parameter.encode() in self.functions[bound].params)
        return found

    def function_of(self, app: str, tag: str) -> Function | None:
        published = self.published.get(app)
        if published is None or tag not in published.function_ids:
            return None
        return self.functions[published.function_ids[tag]]
