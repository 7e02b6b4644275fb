"""What can be wrong with a workflow, found without running it. One class a stable `code`.

WorkflowError
├── NotAWorkflow           not a JSON object of nodes, or empty
├── UiFormat               saved from the editor, not exported in API format
├── BadNode                a node without class_type or inputs
├── DanglingLink           a link to a node or an output slot that does not exist
├── WorkflowCycle          nodes that wait for each other
├── UnknownNodeClass       the deployed engine has no such node
├── MissingRequiredInput   a required input is neither set nor linked
├── NoOutputNode           nothing would be saved or shown
├── UnknownInputNode       an entry of `inputs` names a node that the workflow lacks
└── UnknownInputField      … or a field that this node lacks
"""

from typing import ClassVar


class WorkflowError(ValueError):
    """`pointer` is an RFC 6901 pointer into the document at fault; `hint` says what to do."""

    code: ClassVar[str]

    def __init__(self, message: str, *, pointer: str = "", node_id: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.pointer = pointer
        self.node_id = node_id
        self.hint = hint


class NotAWorkflow(WorkflowError):
    code = "not-a-workflow"


class UiFormat(WorkflowError):
    code = "ui-format-workflow"


class BadNode(WorkflowError):
    code = "bad-node"


class DanglingLink(WorkflowError):
    code = "dangling-link"


class WorkflowCycle(WorkflowError):
    code = "workflow-cycle"


class UnknownNodeClass(WorkflowError):
    code = "unknown-node-class"


class MissingRequiredInput(WorkflowError):
    code = "missing-required-input"


class NoOutputNode(WorkflowError):
    code = "no-output-node"


class UnknownInputNode(WorkflowError):
    code = "unknown-input-node"


class UnknownInputField(WorkflowError):
    code = "unknown-input-field"


def pointer(*parts: str | int) -> str:
    """RFC 6901: `~` and `/` inside a part are escaped."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
