"""Which inputs reach the engine: those that a class declares, and the few that it is known to take without.

ComfyUI gives a node whatever is linked to it, under any name, and to some classes any value as well. Their functions
then do with it what their author never thought of: VideoHelperSuite puts what is named like an option of its formats
into ffmpeg's command line. So of what object_info does not declare only this goes on:
- parts of dynamic inputs, `images.image0`;
- the options of the chosen format, each one of its choices or a number;
- further members of a declared row: `image_3` where the class has an `image_1`;
- links that carry a picture, a model or the like, which no author takes for text;
- what the classes below are known to collect.
"""

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from workflows.declarations import UNKNOWN, InputDeclaration, NodeDeclaration
from workflows.graph import Graph, Link, Node, as_link
from workflows.judge_values import as_listed

COLLECTORS: Mapping[str, str] = {
    "Any Switch (rgthree)": "any_*",
    "Power Lora Loader (rgthree)": "lora_*",
}
"""Classes that declare none of a row, and what its members are called."""
CARGO = frozenset(
    {
        "AUDIO",
        "CLIP",
        "CLIP_VISION",
        "CLIP_VISION_OUTPUT",
        "CONDITIONING",
        "CONTROL_NET",
        "GUIDER",
        "IMAGE",
        "LATENT",
        "MASK",
        "MODEL",
        "NOISE",
        "SAMPLER",
        "SIGMAS",
        "UPSCALE_MODEL",
        "VAE",
        "VIDEO",
    }
)
_NEVER = "manual_format_widgets"
"""VideoHelperSuite's former way to set options of ffmpeg: a dictionary, as a LATENT or an AUDIO is one too."""
_NUMBERED = re.compile(r"(?P<stem>.*\D)\d+\Z", re.DOTALL)

ClassOf = Callable[[str], NodeDeclaration]


def reaching(graph: Graph, class_of: ClassOf) -> Graph:
    """The graph with no other inputs. Of a class that nobody has described all stay."""
    return Graph({node_id: _reduced(node, graph, class_of) for node_id, node in graph.nodes.items()})


def _reduced(node: Node, graph: Graph, class_of: ClassOf) -> Node:
    about = class_of(node.class_type)
    if about is UNKNOWN or all(name in about.inputs for name in node.inputs):
        return node
    widgets = about.widgets(node.inputs)
    kept: dict[str, Any] = {}
    for name, value in node.inputs.items():
        if name in widgets:
            kept.update(_option(widgets[name], value, graph, class_of))
        elif about.takes(name) or (name not in about.hidden and _is_extra(node, name, graph, class_of)):
            kept[name] = value
    return Node(node.class_type, kept, node.rest)


def _is_extra(node: Node, name: str, graph: Graph, class_of: ClassOf) -> bool:
    if name == _NEVER:
        return False
    collected = COLLECTORS.get(node.class_type)
    if collected is not None and fnmatchcase(name, collected):
        return True
    link = as_link(node.inputs[name])
    if link is not None and kinds(link, graph, class_of) <= CARGO:
        return True
    return _continues_a_row(name, class_of(node.class_type))


def _continues_a_row(name: str, about: NodeDeclaration) -> bool:
    numbered = _NUMBERED.match(name)
    stem = numbered and numbered["stem"]
    return stem is not None and any(
        (other := _NUMBERED.match(declared)) and other["stem"] == stem for declared in about.inputs
    )


def _option(widget: InputDeclaration, value: Any, graph: Graph, class_of: ClassOf) -> dict[str, Any]:
    """As its number or choice: no conversion of ComfyUI's stands between an undeclared value and the node."""
    if isinstance(value, list):
        return {widget.name: value} if carries_numbers(widget, as_link(value), graph, class_of) else {}
    try:
        return {widget.name: as_listed(widget, value)}
    except (ValueError, TypeError, OverflowError):
        return {}


def carries_numbers(widget: InputDeclaration, link: Link | None, graph: Graph, class_of: ClassOf) -> bool:
    """Whether this link can be trusted with an option: what comes by it is judged by nobody."""
    return link is not None and widget.is_number and kinds(link, graph, class_of) <= {"INT", "FLOAT", "BOOLEAN"}


def kinds(link: Link, graph: Graph, class_of: ClassOf) -> frozenset[str]:
    """The types that this may bring; `*` for what is not known, and for choices, which are text."""
    outputs = class_of(graph.nodes[link.node_id].class_type).outputs
    kind = outputs[link.slot] if outputs is not None and link.slot < len(outputs) else None
    return frozenset(one.strip() for one in kind.split(",")) if isinstance(kind, str) else frozenset({"*"})
