"""What names of inputs are made of: texts of the author, and the places of nodes in the graph."""

import re
import unicodedata

from pydantic import BaseModel

from workflows.graph import Graph

LONGEST_INPUT_NAME = 40


def fed_inputs(graph: Graph) -> dict[str, str]:
    """Return the name of the input that a node feeds, where all inputs that it feeds have one name."""
    fed: dict[str, set[str]] = {}
    for node in graph.nodes.values():
        for name, link in node.links().items():
            fed.setdefault(link.node_id, set()).add(name.rpartition(".")[2])
    return {node_id: next(iter(names)) for node_id, names in fed.items() if len(names) == 1}


def prompt_roles(graph: Graph) -> dict[str, str]:
    """Return `prompt` or `negative_prompt` for the nodes that samplers' conditionings come from."""
    roles: dict[str, str] = {}
    for role, field in (("negative_prompt", "negative"), ("prompt", "positive")):
        waiting = [link.node_id for node in graph.nodes.values() if (link := node.links().get(field)) is not None]
        seen: set[str] = set()
        while waiting:
            node_id = waiting.pop()
            node = graph.nodes.get(node_id)
            if node is None or node_id in seen:
                continue
            seen.add(node_id)
            roles[node_id] = role
            links = node.links()
            # A node that takes both conditionings begins two searches of its own.
            if "positive" not in links and "negative" not in links:
                waiting += [link.node_id for link in links.values()]
    return roles


def slug(text: str) -> str:
    """Return a name for an input: small letters, digits and underscores; empty if nothing is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:LONGEST_INPUT_NAME].strip("_")
    # A digit would be no name in a program, and pydantic has methods that a field must not hide.
    return f"input_{name}" if name and (name[0].isdigit() or hasattr(BaseModel, name)) else name
