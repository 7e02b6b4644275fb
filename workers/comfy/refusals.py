"""Interprets ComfyUI's responses to POST /prompt. Pure; the bodies are those of recorded refusals."""

import re
from collections.abc import Mapping
from typing import Any

from workers.errors import EngineUnavailable, PromptRefused, WorkerError
from workflows.messages import is_id
from workflows.node_errors import bounded, class_of, listed

LONGEST_MESSAGE = 2000
RING = "dependency_cycle"


_NODE_ID = re.compile(r"^Node ID '#(.+)'$")
_GATEWAY_STATUSES = frozenset({502, 503, 504})


def refusal(status: int, body: object, *, is_strict: bool = False) -> WorkerError | None:
    """Return the refusal in a response; None if the prompt was accepted."""
    if status in _GATEWAY_STATUSES:  # of a proxy before ComfyUI
        return EngineUnavailable(f"POST /prompt: {status}: {str(body)[:LONGEST_MESSAGE]}")
    if not isinstance(body, Mapping):  # an invalid document is answered in plain text
        return PromptRefused(f"ComfyUI answered {status}: {str(body)[:LONGEST_MESSAGE]}")
    node_errors = node_errors_of(body)
    # With node_errors some outputs are bad, and ComfyUI runs the others.
    if status == 200 and not (node_errors and is_strict):
        return None
    node_id, class_type = _blamed(body.get("error"), node_errors)
    return PromptRefused(
        _message(body.get("error"), node_errors)[:LONGEST_MESSAGE],
        node_id=node_id,
        class_type=class_type,
        node_errors=bounded(node_errors) or None,
    )


def node_errors_of(body: object) -> Mapping[str, Any]:
    node_errors = body.get("node_errors") if isinstance(body, Mapping) else None
    return node_errors if isinstance(node_errors, dict) else {}


def warnings_of(node_errors: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the warnings of a job's record. `known` are those of the submission, mostly with our own messages.

    ComfyUI 0.3.64 reports nothing about outputs that depend on a cycle, although it does not run them, so the
    submission's warning is kept.
    """
    return _rings(node_errors, known) | {
        node_id: {
            "class_type": error.get("class_type"),
            "dependent_outputs": listed(error, "dependent_outputs"),
            "errors": listed(error, "errors"),
            "detail": known.get(node_id, {}).get("detail") or _message(None, {node_id: error})[:LONGEST_MESSAGE],
            "hint": known.get(node_id, {}).get("hint", ""),
        }
        for node_id, error in bounded(node_errors).items()
    }


def not_run(node_errors: Mapping[str, Any], known: Mapping[str, Any]) -> frozenset[str]:
    """Return the output nodes that the engine does not run; the arguments are those of `warnings_of`."""
    errors = (error for error in (*node_errors.values(), *_rings(node_errors, known).values()))
    kept_from_running = (listed(error, "dependent_outputs") for error in errors if isinstance(error, Mapping))
    return frozenset(str(output) for outputs in kept_from_running for output in outputs)


def _rings(node_errors: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    return {
        node_id: warning
        for node_id, warning in known.items()
        if node_id not in node_errors and any(error.get("type") == RING for error in warning["errors"])
    }


def _blamed(error: object, node_errors: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the id and class of the first node with errors, else those in the error itself."""
    for node_id, node_error in node_errors.items():
        return node_id if is_id(node_id) else None, class_of(node_error)
    if not isinstance(error, Mapping):
        return None, None
    # For an unknown class ComfyUI 0.33 has both here, and 0.3.64 has only the id, in `details`.
    named = error.get("extra_info")
    if isinstance(named, Mapping) and is_id(named.get("node_id")):
        return str(named["node_id"]), class_of(named)
    in_words = _NODE_ID.search(str(error.get("details")))
    return (in_words[1] if in_words and is_id(in_words[1]) else None), None


def _message(error: object, node_errors: Mapping[str, Any]) -> str:
    """Return ComfyUI's message: the first node's first error if there is one, else the general one."""
    for node_id, node_error in node_errors.items():
        if isinstance(node_error, Mapping):
            reasons = listed(node_error, "errors") or [{}]
            return f"node {node_id} ({node_error.get('class_type')}): {_words(reasons[0])}"
    return _words(error)


def _words(error: object) -> str:
    if not isinstance(error, Mapping):
        return str(error or "refused without a reason")
    parts = (str(error.get(name) or "") for name in ("message", "details"))
    return ": ".join(part for part in parts if part) or str(error.get("type") or "refused without a reason")
