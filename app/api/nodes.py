"""/v1/nodes and /v1/models: the node classes and model files of the deployment, as its engine published them.

Both are read from the pool's published object_info, which the process has parsed already. So a request costs the bucket
at most one HEAD a minute. The ETag changes with what was published.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from app import __version__
from app.api.context import answer, context_of, principal_of, whole_number
from app.fields import Moment, ResponseBody
from app.heavy import off_loop
from app.operations import CLASS_TYPE, KNOWN, Operation, Parameter, page_parameters
from app.problems import Problem
from storage.keys import DEFAULT_POOL
from storage.pools.engine_info import Published
from workflows.declarations import InputDeclaration, NodeDeclaration
from workflows.inventory import LONGEST_SHOWN, MOST_CHOICES, Model, kind_of, shown_choices, shown_default
from workflows.suggestions import suggestion

T = TypeVar("T")

MAX_NAME = 256
"""Longest cursor or name of a folder in a query, and longest name that an error repeats."""
DEFAULT_LIMIT = 100
CACHED = {"cache-control": "private, no-cache"}
"""The client may keep the response, and asks with its ETag whether it is current."""


class NodeRow(ResponseBody):
    """A node class in short."""

    class_type: str
    title: str = Field(description="its name in ComfyUI's editor")
    category: str
    pack: str | None = Field(description="the pack of custom nodes that it comes from; null for ComfyUI's own")
    is_output: bool = Field(description="whether it saves or shows something; a workflow needs one that does")
    allowed: bool = Field(description="whether graphs sent with this API key may use it")
    inputs: dict[str, str] = Field(description="type by name; COMBO for a list of choices")
    required: list[str] = Field(description="the inputs that must be set or linked")
    outputs: list[str] = Field(description="types, in the order by which links number them")


class NodeInput(ResponseBody):
    name: str
    type: str = Field(description="COMBO for a list of choices")
    required: bool
    default: Any = Field(description="what the editor sets; null if nothing")
    min: int | float | None
    max: int | float | None
    choices: list[str | bool | int | float] | None = Field(
        description=f"at most {MOST_CHOICES} of them; null for any other type, and for files of the input folder"
    )
    tooltip: str | None


class NodeOutput(ResponseBody):
    name: str
    type: str


class NodeView(ResponseBody):
    """A node class in detail."""

    class_type: str
    title: str
    category: str
    pack: str | None
    is_output: bool
    allowed: bool
    objection: str | None = Field(description="why graphs sent with this API key may not use it")
    description: str
    deprecated: bool
    experimental: bool
    inputs: list[NodeInput]
    outputs: list[NodeOutput]


class PoolPage(ResponseBody):
    pool: str
    comfyui_version: str | None
    published_at: Moment | None = Field(description="when a worker last published it; null if none has yet")


class NodeList(PoolPage):
    nodes: list[NodeRow] = Field(description="by name")
    next_cursor: str | None = Field(description="pass it as cursor for the next page")


class LoaderView(ResponseBody):
    class_type: str
    input: str


class ModelRow(ResponseBody):
    folder: str | None = Field(description="ComfyUI's name for its kind; null if only custom nodes list it")
    name: str = Field(description="as a loader's input takes it")
    loaders: list[LoaderView] = Field(description="inputs that take it, ComfyUI's own first")


class ModelList(PoolPage):
    is_current: bool = Field(
        description="false if models may have been added since: the next worker that starts publishes them"
    )
    models: list[ModelRow] = Field(description="by folder and name")
    next_cursor: str | None = Field(description="pass it as cursor for the next page")


async def page(request: Request) -> Response:
    pool, limit, cursor = _pool(request), _limit(request), _text(request, "cursor")
    published = await context_of(request).stores.engine_info.published(pool)

    def view() -> NodeList:
        names, more = _part(published.class_types if published else (), cursor, limit, str)
        rows = [_node_row(published, name, _objection(request, name)) for name in names] if published else []
        return NodeList(**_head(pool, published), nodes=rows, next_cursor=names[-1] if more else None)

    return await _cached(request, published, view)


async def show(request: Request) -> Response:
    pool, class_type = _pool(request), request.path_params["class_type"]
    published = await context_of(request).stores.engine_info.published(pool)
    if published is None:
        raise Problem("unknown-node", f"no worker of the pool {pool} has published its nodes yet")
    if class_type not in published.info.object_info:
        similar = suggestion(class_type, published.class_types) or None
        raise Problem("unknown-node", f"the pool {pool} has no node class {class_type[:MAX_NAME]!r}", hint=similar)
    return await _cached(request, published, lambda: _node_view(published, class_type, _objection(request, class_type)))


async def models(request: Request) -> Response:
    context, folder = context_of(request), _text(request, "folder")
    pool, limit, cursor = _pool(request), _limit(request), _text(request, "cursor")
    published = await context.stores.engine_info.published(pool)
    is_current = published is not None and published.files_are_known(context.stores.clock.now())
    after = None if cursor is None else tuple(cursor.split("/", 1))

    def view() -> ModelList:
        listed = [model for model in published.models if folder in (None, model.folder)] if published else []
        found, more = _part(listed, after, limit, lambda model: model.place)
        return ModelList(
            **_head(pool, published),
            is_current=is_current,
            models=[_model_row(model) for model in found],
            next_cursor="/".join(found[-1].place) if more else None,
        )

    return await _cached(request, published, view, "current" if is_current else "")


def _part(items: Sequence[T], after: Any, limit: int, place: Callable[[T], Any]) -> tuple[Sequence[T], bool]:
    """Return the items of a sorted sequence that follow the place `after`, and whether there are more."""
    start = 0 if after is None else bisect_right(items, after, key=place)
    return items[start : start + limit], start + limit < len(items)


async def _cached(
    request: Request, published: Published | None, view: Callable[[], BaseModel], state: str = ""
) -> Response:
    """Respond with the view, or 304 to its ETag. `state` is what it depends on besides the request and the engine."""
    context, graphs = context_of(request), principal_of(request).graphs
    engine = published.etag if published else ""
    parts = (__version__, engine, state, graphs, context.config.node_policy.text, request.url.path, request.url.query)
    etag = f'"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"'
    headers = {"etag": etag, **CACHED}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    # Off the event loop, because the first use of an engine's information parses thousands of classes.
    return await off_loop(lambda: answer(view(), headers=headers))


def _head(pool: str, published: Published | None) -> dict[str, Any]:
    info = published.info if published else None
    return {
        "pool": pool,
        "comfyui_version": info.comfyui_version if info else None,
        "published_at": info.published_at if info else None,
    }


def _node_row(published: Published, class_type: str, objection: str | None) -> NodeRow:
    raw, about = _raw(published, class_type), published.catalogue.declaration(class_type)
    return NodeRow(
        **_summary(class_type, raw, about, objection),
        inputs={declared.name: kind_of(declared) for declared in about.inputs.values()},
        required=[declared.name for declared in about.inputs.values() if declared.required],
        outputs=[_type(output) for output in about.outputs or ()],
    )


def _node_view(published: Published, class_type: str, objection: str | None) -> NodeView:
    raw, about = _raw(published, class_type), published.catalogue.declaration(class_type)
    types, names = [_type(output) for output in about.outputs or ()], raw.get("output_name")
    named = names if isinstance(names, list) and len(names) == len(types) else types
    return NodeView(
        **_summary(class_type, raw, about, objection),
        objection=objection,
        description=_shown_text(raw.get("description")),
        deprecated=raw.get("deprecated") is True,
        experimental=raw.get("experimental") is True,
        inputs=[_input(about, declared) for declared in about.inputs.values()],
        outputs=[NodeOutput(name=_shown_text(name), type=kind) for name, kind in zip(named, types, strict=True)],
    )


def _summary(class_type: str, raw: Mapping[str, Any], about: NodeDeclaration, objection: str | None) -> dict[str, Any]:
    module = _shown_text(raw.get("python_module"))
    return {
        "class_type": class_type,
        "title": _shown_text(raw.get("display_name")) or class_type,
        "category": _shown_text(raw.get("category")),
        "pack": module.split(".")[1] if about.is_custom and "." in module else None,
        "is_output": about.is_output,
        "allowed": objection is None,
    }


def _input(about: NodeDeclaration, declared: InputDeclaration) -> NodeInput:
    choices, options = shown_choices(about, declared), declared.options
    return NodeInput(
        name=declared.name,
        type=kind_of(declared),
        required=declared.required,
        default=shown_default(about, declared),
        min=_number(options.get("min")),
        max=_number(options.get("max")),
        choices=None if choices is None else choices[:MOST_CHOICES],
        tooltip=_shown_text(options.get("tooltip")) or None,
    )


def _model_row(model: Model) -> ModelRow:
    loaders = [LoaderView(class_type=loader.class_type, input=loader.input) for loader in model.loaders]
    return ModelRow(folder=model.folder, name=model.name, loaders=loaders)


def _raw(published: Published, class_type: str) -> Mapping[str, Any]:
    described = published.info.object_info[class_type]
    return described if isinstance(described, Mapping) else {}


def _type(output: Any) -> str:
    return "COMBO" if isinstance(output, list) else str(output)[:LONGEST_SHOWN]


def _shown_text(value: Any) -> str:
    return value[:LONGEST_SHOWN] if isinstance(value, str) else ""


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _objection(request: Request, class_type: str) -> str | None:
    return context_of(request).config.node_policy.objection(class_type, principal_of(request).graphs)


def _limit(request: Request) -> int:
    limit: int = whole_number(request, "limit", default=DEFAULT_LIMIT, low=1, high=context_of(request).config.max_page)
    return limit


def _pool(request: Request) -> str:
    pools = (DEFAULT_POOL, *context_of(request).config.gpu_pools)
    pool = request.query_params.get("pool") or DEFAULT_POOL
    if pool not in pools:
        raise Problem("unknown-gpu", f"there is no pool {pool[:MAX_NAME]!r}: this deployment has {', '.join(pools)}")
    return pool


def _text(request: Request, name: str) -> str | None:
    text = request.query_params.get(name)
    if text is not None and len(text) > MAX_NAME:
        raise Problem("invalid-parameter", f"{name} has {len(text)} characters, at most {MAX_NAME} are allowed")
    return text or None


POOL = Parameter("pool", "query", {"type": "string", "default": DEFAULT_POOL}, "a GPU pool of the deployment")
_LISTED = ("invalid-parameter", "unknown-gpu")

OPERATIONS = (
    Operation(
        page,
        "list_nodes",
        "get",
        "/v1/nodes",
        "List the node classes of the deployment",
        {200: ("one page, by name", NodeList), 304: ("it is still the version that you know", None)},
        parameters=(POOL, *page_parameters(DEFAULT_LIMIT), KNOWN),
        refusals=_LISTED,
    ),
    Operation(
        show,
        "get_node",
        "get",
        "/v1/nodes/{class_type}",
        "Get a node class with its inputs",
        {200: ("the class", NodeView), 304: ("it is still the version that you know", None)},
        parameters=(CLASS_TYPE, POOL, KNOWN),
        refusals=("unknown-gpu", "unknown-node"),
        has_slashes=True,
    ),
    Operation(
        models,
        "list_models",
        "get",
        "/v1/models",
        "List the model files of the deployment",
        {200: ("one page, by folder and name", ModelList), 304: ("it is still the version that you know", None)},
        parameters=(
            POOL,
            Parameter(
                "folder", "query", {"type": "string", "maxLength": MAX_NAME, "examples": ["loras"]}, "only of this kind"
            ),
            *page_parameters(DEFAULT_LIMIT),
            KNOWN,
        ),
        refusals=_LISTED,
    ),
)
