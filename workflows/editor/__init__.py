"""Conversion of what ComfyUI's editor saves to the API format that ComfyUI runs."""

from workflows.editor.convert import Conversion, DocumentNode, Note, convert
from workflows.editor.missing import convert_for
from workflows.editor.positions import CanvasNode, positions
from workflows.editor.proposals import Proposal, proposed_inputs, unknown_nodes, unknown_notes
from workflows.editor.size import placed_nodes

__all__ = [
    "CanvasNode",
    "Conversion",
    "DocumentNode",
    "Note",
    "Proposal",
    "convert",
    "convert_for",
    "placed_nodes",
    "positions",
    "proposed_inputs",
    "unknown_nodes",
    "unknown_notes",
]
