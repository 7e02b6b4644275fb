"""The refusal of a file with classes that an engine lacks: it names all of them, and what to do about it there."""

from typing import Any

from workflows.catalogue import Catalogue
from workflows.editor.convert import Conversion, convert
from workflows.editor.proposals import unknown_nodes
from workflows.errors import NotConvertible

MOST_NAMED = 20
"""Missing classes that one message names."""
_MISSING = "class not installed"


def convert_for(document: Any, catalogue: Catalogue) -> Conversion:
    """Convert a document as `convert` does. Raises as it does, with all missing classes in one error."""
    try:
        return convert(document, catalogue)
    except NotConvertible as error:
        if error.reason != _MISSING:
            raise
        missing = sorted({node.kind for node in unknown_nodes(document, catalogue)})
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        named = ", ".join(name[:80] for name in missing[:MOST_NAMED])
        raise NotConvertible(
            f"this deployment lacks the node classes {named}{more}: {error.message}",
            reason=error.reason,
            pointer=error.pointer,
            node_id=error.node_id,
            hint=catalogue.remedy,
        ) from error
