"""Conversion of what ComfyUI's editor saves to the API format that ComfyUI runs."""

from workflows.editor.convert import Conversion, Note, convert
from workflows.editor.proposals import Proposal, proposed_inputs, unknown_classes

__all__ = ["Conversion", "Note", "Proposal", "convert", "proposed_inputs", "unknown_classes"]
