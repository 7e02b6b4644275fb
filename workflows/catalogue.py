"""Validates a graph against the deployed engine's node declarations (ComfyUI's object_info).

The rules are those of ComfyUI's own validation: every class must exist, and every node that an output depends on
through declared inputs must have its required inputs, links of matching types, and values of the right type, range and
choice. An output with a fault upstream does not run; the others do. All faults are reported at once. A broken node that
no output depends on is ignored.

ComfyUI executes more than it validates: it also follows undeclared links. A dangling or cyclic one aborts the whole
prompt during execution (in 0.3.64 the executing thread dies), so the graph is refused here.

A job that the engine would run must never be refused here, so what object_info does not say is left to the engine:
- A class may validate its values itself (`VALIDATE_INPUTS`); ComfyUI then skips ranges and choices. If the code that
  runs inside the engine did not publish which inputs these are (`unchecked_inputs`), custom nodes' values are not
  checked. If it published that a class requires an existing file (`checked_files`), names of files that certainly do
  not exist are refused.
- Custom nodes may compare types in their own way, so the types of their links are not checked.
- Files of the input folder (LoadImage's `image`) are checked against the job's files and the engine's list.
- Dynamic inputs (`COMFY_…` types) are checked for presence and for the parts that a dynamic combo's choice adds.
  Combos that the editor fetches (`remote`) are not checked.
- Model files change during a deployment: they are checked only where `files_are_known`.

Without object_info, before the first worker has published it, only the graph's structure is checked: any class is
accepted, and the nodes that no other node links to count as the outputs.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from workflows.check_nodes import NodeCheck, dangling, ring_fault
from workflows.declarations import OPEN_INPUTS, UNKNOWN, NodeDeclaration, declared
from workflows.errors import NoOutputNode, UnknownInputField, UnknownInputNode, UnknownNodeClass, WorkflowError, pointer
from workflows.graph import Graph, Node
from workflows.input_files import Files
from workflows.location import plain, short
from workflows.report import Edges, Report, reachable, report, rings, turned
from workflows.suggestions import suggestion

MOST_FAULTS = 50
"""The most faults of one report."""
LITE_CATEGORY = "lite"
"""The category of every class of the lite engine; ComfyUI has no such category."""


class Catalogue:
    """The node declarations of one engine, from the response of GET /object_info, or None if it is not known.

    Classes are parsed on first use and cached, so callers keep one instance for each object_info.
    """

    def __init__(self, object_info: Mapping[str, Any] | None, *, files_are_known: bool = True) -> None:
        """`files_are_known` says that object_info was read recently, with the models mounted."""
        self._info = object_info
        self._files_are_known = files_are_known
        self._declared: dict[str, NodeDeclaration] = {}
        described = (object_info or {}).values()
        self._knows_open_inputs = any(isinstance(about, Mapping) and OPEN_INPUTS in about for about in described)

    @classmethod
    def absent(cls) -> "Catalogue":
        return cls(None)

    @property
    def is_known(self) -> bool:
        """Whether object_info is known. Without it graphs are validated by their structure alone."""
        return self._info is not None

    def believing_files(self, *, files_are_known: bool) -> "Catalogue":
        """Return a catalogue with this `files_are_known` that shares the parsed classes."""
        if files_are_known is self._files_are_known:
            return self
        other = Catalogue(self._info, files_are_known=files_are_known)
        other._declared = self._declared
        return other

    def drops_literals(self, about: NodeDeclaration) -> bool:
        """Report whether ComfyUI certainly drops literals that this class does not declare."""
        # No class of ComfyUI itself has open inputs. Of custom classes this is known only if the engine published open
        # inputs, which an object_info with at least one open class shows.
        return not about.is_custom or (self._knows_open_inputs and not about.open_inputs)

    def check(self, graph: Graph, brought: frozenset[str] | None = None) -> Report:
        """Validate the graph: at most MOST_FAULTS faults, and the outputs that run. The module lists the rules.

        `brought` are the names of the job's files in the input folder, or None if they are not known.
        """
        unknown = self._check_classes(graph)
        outputs = graph.loose_ends() if self._info is None else self.output_nodes(graph)
        if not outputs and not unknown and self._info is not None:
            problem = "no node of this workflow saves or shows anything"
            said = {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": "", "extra_info": {}}
            return Report((NoOutputNode(problem, hint="add an output node, SaveImage for one", engine=said),))
        validated = {node_id: self._sources(graph, node) for node_id, node in graph.nodes.items()}
        # Without object_info any node may be an output, so a graph that consists of one cycle is validated as a whole.
        needed = reachable(outputs or graph.nodes, validated)
        faults, users = [*unknown], turned(validated)
        bad = _collect(self._faults(graph, needed, validated, Files(self._files_are_known, brought)), faults)
        # ComfyUI refuses a prompt with any unknown class; another fault only stops the outputs that depend on it.
        runs = frozenset() if unknown else outputs - reachable(bad, users)
        executed = {node_id: _linked(graph, node) for node_id, node in graph.nodes.items()}
        fatal = _collect(self._fatal(graph, reachable(runs, executed), executed), faults)
        # The executing thread of ComfyUI follows undeclared links as well, so such a fault stops every output.
        if fatal:
            return report(graph, faults, frozenset(), lambda _: outputs)
        return report(graph, faults, runs, lambda node_id: reachable([node_id], users) & outputs)

    def output_nodes(self, graph: Graph) -> frozenset[str]:
        """Return the output nodes, for which ComfyUI executes the graph."""
        if self._info is None:
            # Without declarations every leaf may be an output.
            return graph.leaves()
        return frozenset(
            node_id for node_id, node in graph.nodes.items() if self.declaration(node.class_type).is_output
        )

    def apply(self, graph: Graph, values: Iterable[tuple[str, str, Any]]) -> Graph:
        """Return the graph with each (node id, field, value) set. Raises `UnknownInputNode`, `UnknownInputField`.

        A field is known if the graph sets it already or the class declares it.
        """
        known = list(values)
        for position, (node_id, field, _) in enumerate(known):
            node = graph.nodes.get(node_id)
            if node is None:
                raise UnknownInputNode(
                    f"the workflow has no node {node_id}",
                    pointer=pointer(position, "node"),
                    node_id=node_id,
                    hint=suggestion(node_id, graph.nodes),
                )
            about = self.declaration(node.class_type)
            if field not in node.inputs and not about.takes(field):
                raise UnknownInputField(
                    f"node {node_id} ({node.class_type}) has no field {field}",
                    pointer=pointer(position, "field"),
                    node_id=node_id,
                    hint=suggestion(field, {*node.inputs, *about.inputs}),
                )
        return graph.with_values(known)

    def __contains__(self, class_type: object) -> bool:
        """Report whether object_info has this class."""
        return self._info is not None and class_type in self._info

    def class_types(self) -> list[str]:
        """Return the names of all classes in order."""
        return sorted(self._info or ())

    def declaration(self, class_type: str) -> NodeDeclaration:
        """Return the declaration of a class, or `UNKNOWN` for a class that object_info lacks."""
        if self._info is None or class_type not in self._info:
            return UNKNOWN
        if class_type not in self._declared:
            self._declared[class_type] = declared(self._info[class_type])
        return self._declared[class_type]

    @property
    def remedy(self) -> str:
        """What to do about classes that this engine lacks."""
        return _remedy(self._info or {})

    def pack(self, class_type: str) -> str | None:
        """Return the folder of the custom nodes that a class comes from; None for ComfyUI's own classes."""
        described = (self._info or {}).get(class_type)
        module = described.get("python_module") if isinstance(described, Mapping) else None
        if not isinstance(module, str) or not self.declaration(class_type).is_custom or "." not in module:
            return None
        return module.split(".")[1]

    def _check_classes(self, graph: Graph) -> list[WorkflowError]:
        if self._info is None:
            return []
        info = self._info
        unknown = (node_id for node_id, node in graph.nodes.items() if node.class_type not in info)
        return [self._unknown_class(node_id, graph.nodes[node_id], info) for node_id in islice(unknown, MOST_FAULTS)]

    @staticmethod
    def _unknown_class(node_id: str, node: Node, info: Mapping[str, Any]) -> WorkflowError:
        # ComfyUI's message names the node by the title that the user gave it in the editor.
        meta = node.rest.get("_meta")
        title = meta.get("title", node.class_type) if isinstance(meta, Mapping) else node.class_type
        return UnknownNodeClass(
            f"node {node_id} is of the class {node.class_type}, which this deployment does not have",
            pointer=pointer(node_id, "class_type"),
            node_id=node_id,
            hint=lambda: suggestion(node.class_type, info) or _remedy(info),
            engine={
                "type": "missing_node_type",
                "message": f"Node '{plain(title)}' not found. The custom node may not be installed.",
                "details": f"Node ID '#{node_id}'",
                "extra_info": {"node_id": node_id, "class_type": node.class_type, "node_title": short(title)},
            },
        )

    def _sources(self, graph: Graph, node: Node) -> list[str]:
        """Return the nodes that the node depends on through declared inputs, which are all that ComfyUI validates."""
        # Of an unknown class all links are followed, so that faults upstream are part of the same report.
        if self._info is None or node.class_type not in self._info:
            return _linked(graph, node)
        about = self.declaration(node.class_type)
        return [
            link.node_id for name, link in node.links().items() if link.node_id in graph.nodes and about.takes(name)
        ]

    def _faults(self, graph: Graph, needed: frozenset[str], sources: Edges, files: Files) -> Iterator[WorkflowError]:
        check = NodeCheck(graph, self.declaration, files)
        for node_id in graph.nodes:
            if node_id in needed:
                yield from dangling(graph, node_id) if self._info is None else check.faults(node_id)
        yield from _rings(graph, needed, sources)

    def _fatal(self, graph: Graph, executed: frozenset[str], links: Edges) -> Iterator[WorkflowError]:
        """Yield the faults that abort a prompt during execution, among the nodes that the runnable outputs execute."""
        for node_id in graph.nodes:
            if node_id in executed:
                yield from dangling(graph, node_id)
        yield from _rings(graph, executed, links)


def _rings(graph: Graph, nodes: frozenset[str], sources: Edges) -> Iterator[WorkflowError]:
    for ring in rings([node_id for node_id in graph.nodes if node_id in nodes], sources):
        yield ring_fault(graph, ring)


def _linked(graph: Graph, node: Node) -> list[str]:
    return [link.node_id for link in node.links().values() if link.node_id in graph.nodes]


def _collect(found: Iterable[WorkflowError], faults: list[WorkflowError]) -> frozenset[str]:
    """Append the faults up to MOST_FAULTS and return all nodes that have one."""
    # Every fault is counted, also those beyond the limit, because each node with a fault stops the outputs behind it.
    bad: set[str] = set()
    for fault in found:
        bad.add(fault.node_id or "")
        if len(faults) < MOST_FAULTS:
            faults.append(fault)
    return frozenset(bad)


def _remedy(info: Mapping[str, Any]) -> str:
    """Return the hint for a missing class that no known class resembles."""
    if any(about.get("category") == LITE_CATEGORY for about in info.values()):
        return "the lite engine runs no models: set COMFYUI_DIR to your ComfyUI, or see docs/reference/lite.md"
    return "install the custom node that provides it, or remove the node"
