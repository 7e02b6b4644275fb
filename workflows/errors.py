"""Errors of a workflow that are found without running it. Each class has one stable `code`.

WorkflowError
├── NotAWorkflow           not a JSON object of nodes, or empty
├── UiFormat               saved from the editor, not exported in API format
├── BadEditorFile          not what ComfyUI's editor saves: malformed nodes or links
├── NotConvertible         a node of the editor's file whose meaning in the API format is not known
├── BadNode                a node without class_type or inputs
├── DanglingLink           a link to a node or an output slot that does not exist
├── WorkflowCycle          nodes that wait for each other
├── NodeNotAllowed         the deployment's policy refuses this class
├── UnsafeFileName         a loader is given a name that leads out of the job's own files
├── UndeclaredInput        a stranger's graph gives a node what its class does not declare
├── UnknownNodeClass       the deployed engine has no such node
├── MissingRequiredInput   a required input is neither set nor linked
├── WrongInputType         a value that is not of the input's type, or a list that is no link
├── ValueOutOfRange        a number below the least or above the most
├── ValueNotInList         none of the input's choices
├── MissingModel           … where the choices are the models' files
├── MissingInputFile          … where they are input files, and the job does not bring this one
├── LinkTypeMismatch       a link between an output and an input of other types
├── NoOutputNode           nothing would be saved or shown
├── UnknownInputNode       an entry of `inputs` names a node that the workflow lacks
└── UnknownInputField      … or a field that this node lacks
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar


class WorkflowError(ValueError):
    """The base of all workflow errors. `pointer` is an RFC 6901 pointer into the document; `hint` says what to do.

    A hint that needs a search is passed as a function, which is called only if the hint is shown. `engine` is
    ComfyUI's own error, if it has one: {type, message, details, extra_info}.
    """

    code: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        pointer: str = "",
        node_id: str | None = None,
        hint: str | Callable[[], str] = "",
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.pointer = pointer
        self.node_id = node_id
        self.engine = engine
        self._hint = hint

    @property
    def searches_hint(self) -> bool:
        """Whether reading `hint` runs a search, which may take milliseconds."""
        return not isinstance(self._hint, str)

    @property
    def hint(self) -> str:
        if not isinstance(self._hint, str):
            self._hint = self._hint()
        return self._hint

    def add_hint(self, hint: str) -> None:
        self._hint = f"{self.hint}; {hint}" if self.hint else hint


class NotAWorkflow(WorkflowError):
    code = "not-a-workflow"


class UiFormat(WorkflowError):
    code = "ui-format-workflow"


class BadEditorFile(WorkflowError):
    code = "bad-editor-file"


class NotConvertible(WorkflowError):
    """A node of the editor's file cannot be converted exactly. `reason` is a short, stable class of reasons."""

    code = "not-convertible"

    def __init__(self, message: str, *, reason: str, **about: Any) -> None:
        super().__init__(message, **about)
        self.reason = reason


class BadNode(WorkflowError):
    code = "bad-node"


class DanglingLink(WorkflowError):
    code = "dangling-link"


class WorkflowCycle(WorkflowError):
    """Nodes depend on each other in a cycle. `ring` are its nodes, or the first ones of a long cycle."""

    code = "workflow-cycle"

    def __init__(self, message: str, *, ring: Sequence[str], **about: Any) -> None:
        super().__init__(message, node_id=ring[0], **about)
        self.ring = ring


class NodeNotAllowed(WorkflowError):
    code = "node-not-allowed"


class UnsafeFileName(WorkflowError):
    code = "unsafe-file-name"


class UndeclaredInput(WorkflowError):
    code = "undeclared-input"


class UnknownNodeClass(WorkflowError):
    code = "unknown-node-class"


class MissingRequiredInput(WorkflowError):
    code = "missing-required-input"


class WrongInputType(WorkflowError):
    code = "wrong-input-type"


class ValueOutOfRange(WorkflowError):
    code = "value-out-of-range"


class ValueNotInList(WorkflowError):
    code = "value-not-in-list"


class MissingModel(WorkflowError):
    code = "missing-model"


class MissingInputFile(WorkflowError):
    code = "missing-medium"


class LinkTypeMismatch(WorkflowError):
    code = "link-type-mismatch"


class NoOutputNode(WorkflowError):
    code = "no-output-node"


class UnknownInputNode(WorkflowError):
    code = "unknown-input-node"


class UnknownInputField(WorkflowError):
    code = "unknown-input-field"


def pointer(*parts: str | int) -> str:
    """Build a JSON pointer. `~` and `/` within a part are escaped (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
