"""What the deployed engine's nodes are (ComfyUI's object_info), and whether a graph fits them.

A graph is judged as ComfyUI judges it before it runs anything: every class must exist, and every node that an output
depends on by declared inputs must have its required inputs, links of matching types, and values of the right type,
range and choice. An output with a fault behind it does not run; the others do. All that is wrong is told at once. A
broken node that no output needs is ignored.

ComfyUI executes more than it validates: it follows undeclared links too. One that leads nowhere, or round in a ring,
ends the whole prompt there (in 0.3.64 the thread that executes dies), so it refuses the graph here.

What object_info cannot tell is left to the engine, for a job that it would run must never be refused here:
- A class may check its values itself (`VALIDATE_INPUTS`); ComfyUI then skips ranges and choices. Where our part of the
  engine's process did not publish which (`unchecked_inputs`), nothing of the kind is judged of custom nodes. Where it
  published that a check wants a file that exists (`checked_files`), names that surely lead nowhere are refused.
- Custom nodes may compare types as they like, so the types of their links are not judged.
- Files of the input folder (LoadImage's `image`) are judged by what the job brings and what the engine lists.
- Dynamic inputs (`COMFY_…` types) are checked for presence, and by the parts that a dynamic combo's choice adds; combos
  that the editor fetches (`remote`) not at all.
- The models' files change while a deployment stands: they are judged only where `files_are_known`.

Without object_info (nobody has published one yet) only the graph's own structure is known: then any class is accepted,
and the nodes that nothing links to count as the outputs.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from workflows.check_links import dangling, ring_fault
from workflows.check_nodes import NodeCheck
from workflows.declarations import OPEN_INPUTS, UNKNOWN, NodeDeclaration, declared
from workflows.errors import NoOutputNode, UnknownInputField, UnknownInputNode, UnknownNodeClass, WorkflowError, pointer
from workflows.graph import Graph, Node
from workflows.input_files import Files
from workflows.report import Edges, Report, reachable, report, rings, turned
from workflows.suggestions import suggestion

MOST_FAULTS = 50
"""More than these would only be a longer answer."""
LITE_CATEGORY = "lite"
"""Of every class of the lite engine, which has few; ComfyUI has no such category."""


class Catalogue:
    """`object_info` as GET /object_info answers; None where it is not known. Keep one: classes are parsed once."""

    def __init__(self, object_info: Mapping[str, Any] | None, *, files_are_known: bool = True) -> None:
        """`files_are_known`: the models were mounted when this was asked, and that is not long ago."""
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
        """Whether anything is known of the engine: without, graphs are judged by their structure alone."""
        return self._info is not None

    def believing_files(self, *, files_are_known: bool) -> "Catalogue":
        """The same, its parsed classes shared, with this much trust in the lists of files."""
        if files_are_known is self._files_are_known:
            return self
        other = Catalogue(self._info, files_are_known=files_are_known)
        other._declared = self._declared
        return other

    def drops_literals(self, about: NodeDeclaration) -> bool:
        """Whether ComfyUI surely gives such a node no literal that it does not declare.

        Of ComfyUI's own classes none has open inputs. Of others that is known where the engine was asked for it: then
        at least one class of any larger installation is published as open.
        """
        return not about.is_custom or (self._knows_open_inputs and not about.open_inputs)

    def judge(self, graph: Graph, brought: frozenset[str] | None = None) -> Report:
        """What is wrong with the graph, at most MOST_FAULTS faults, and what runs; see above for what is judged.

        `brought` are the names of the files that the job brings to the input folder; None if that is not known.
        """
        unknown = self._check_classes(graph)
        outputs = graph.loose_ends() if self._info is None else self.output_nodes(graph)
        if not outputs and not unknown and self._info is not None:
            problem = "no node of this workflow saves or shows anything"
            said = {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": "", "extra_info": {}}
            return Report((NoOutputNode(problem, hint="add an output node, SaveImage for one", engine=said),))
        # Of an unknown engine every node may be an output, so a ring that nothing else needs may be what it is all
        # about.
        validated = {node_id: self._sources(graph, node) for node_id, node in graph.nodes.items()}
        needed = reachable(outputs or graph.nodes, validated)
        faults, users = [*unknown], turned(validated)
        bad = _collect(self._faults(graph, needed, validated, Files(self._files_are_known, brought)), faults)
        runs = frozenset() if unknown else outputs - reachable(bad, users)
        executed = {node_id: _linked(graph, node) for node_id, node in graph.nodes.items()}
        fatal = _collect(self._fatal(graph, reachable(runs, executed), executed), faults)
        if fatal:
            return report(graph, faults, frozenset(), lambda _: outputs)
        return report(graph, faults, runs, lambda node_id: reachable([node_id], users) & outputs)

    def output_nodes(self, graph: Graph) -> frozenset[str]:
        """The nodes for whose sake ComfyUI executes anything."""
        if self._info is None:
            return graph.leaves()
        return frozenset(
            node_id for node_id, node in graph.nodes.items() if self.declaration(node.class_type).is_output
        )

    def apply(self, graph: Graph, values: Iterable[tuple[str, str, Any]]) -> Graph:
        """The graph with (node id, field, value) set; an unknown node or field is refused by name.

        A field is known if the graph sets it already, or if the engine says that the class has it.
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

    def declaration(self, class_type: str) -> NodeDeclaration:
        """What the class declares; `UNKNOWN` for one that nobody has described."""
        if self._info is None or class_type not in self._info:
            return UNKNOWN
        if class_type not in self._declared:
            self._declared[class_type] = declared(self._info[class_type])
        return self._declared[class_type]

    def _check_classes(self, graph: Graph) -> list[WorkflowError]:
        if self._info is None:
            return []
        info = self._info
        unknown = (node_id for node_id, node in graph.nodes.items() if node.class_type not in info)
        return [self._unknown_class(node_id, graph.nodes[node_id], info) for node_id in islice(unknown, MOST_FAULTS)]

    @staticmethod
    def _unknown_class(node_id: str, node: Node, info: Mapping[str, Any]) -> WorkflowError:
        """ComfyUI names the node by the title that its user gave it."""
        meta = node.rest.get("_meta")
        title = meta.get("title", node.class_type) if isinstance(meta, Mapping) else node.class_type
        return UnknownNodeClass(
            f"node {node_id} is of the class {node.class_type}, which this deployment does not have",
            pointer=pointer(node_id, "class_type"),
            node_id=node_id,
            hint=lambda: suggestion(node.class_type, info) or _remedy(info),
            engine={
                "type": "missing_node_type",
                "message": f"Node '{title}' not found. The custom node may not be installed.",
                "details": f"Node ID '#{node_id}'",
                "extra_info": {"node_id": node_id, "class_type": node.class_type, "node_title": title},
            },
        )

    def _sources(self, graph: Graph, node: Node) -> list[str]:
        """The nodes that it depends on by inputs that its class declares: ComfyUI validates through no others.

        Of a class that is not known, all links are followed: what is wrong behind them is told in the same answer.
        """
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
        """What ends a prompt in its execution: among the nodes that outputs without another fault execute."""
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
    """The nodes with a fault, all of them; the faults are added up to MOST_FAULTS."""
    bad: set[str] = set()
    for fault in found:
        bad.add(fault.node_id or "")
        if len(faults) < MOST_FAULTS:
            faults.append(fault)
    return frozenset(bad)


def _remedy(info: Mapping[str, Any]) -> str:
    """What helps where a class is missing and none has a name like it."""
    if any(about.get("category") == LITE_CATEGORY for about in info.values()):
        return "the lite engine runs no models: set COMFYUI_DIR to your ComfyUI, or see docs/lite.md for its nodes"
    return "install the custom node that provides it, or remove the node"
