"""Validates prompts with the error bodies of ComfyUI 0.33, key for key.

Each output node is validated with its dependencies. Outputs that fail are left out, and the prompt is refused only if
none is left, so a 200 can have node_errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.lite.folders import Folders
from workers.lite.node import MATCH_TYPE, Declared, NodeClass, is_link

Errors = list[dict[str, Any]]
CONVERSIONS = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


@dataclass(frozen=True, slots=True)
class Validated:
    """`outputs` are the valid output nodes; `error` is set if there are none."""

    outputs: tuple[str, ...]
    error: dict[str, Any] | None
    node_errors: dict[str, Any]


class Refused(Exception):
    """The whole prompt is refused before any node is validated."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.error = error


class Validator:
    def __init__(self, classes: Mapping[str, NodeClass], folders: Folders) -> None:
        self._classes = classes
        self._folders = folders

    def check(self, prompt: Mapping[str, Any], targets: list[str] | None = None) -> Validated:
        """Validate a prompt and convert its values in place.

        Raises `Refused` for unknown classes and without an output node.
        """
        outputs = self._outputs(prompt, targets)
        if not outputs:
            raise Refused(_error("prompt_no_outputs", "Prompt has no outputs", ""))
        validation = _Validation(prompt, self._classes, self._folders)
        good = tuple(output for output in outputs if validation.accepts(output))
        error = None
        if not good:
            error = _error(
                "prompt_outputs_failed_validation", "Prompt outputs failed validation", validation.summary(outputs)
            )
        return Validated(good, error, validation.node_errors(outputs))

    def _outputs(self, prompt: Mapping[str, Any], targets: list[str] | None) -> list[str]:
        for node_id, node in prompt.items():
            class_type = node.get("class_type")
            if class_type is None:
                title = f"ID #{node_id}"
                raise Refused(_missing(f"Node '{title}' has no class_type. {_CORRUPTED}", node_id, None, None))
            if class_type not in self._classes:
                title = (node.get("_meta") or {}).get("title", class_type)
                message = f"Node '{title}' not found. The custom node may not be installed."
                raise Refused(_missing(message, node_id, class_type, title))
        return [
            node_id
            for node_id, node in prompt.items()
            if self._classes[node["class_type"]].is_output and (targets is None or node_id in targets)
        ]


_CORRUPTED = "The workflow may be corrupted or a custom node is missing."


class _Validation:
    """The validation of one prompt's nodes, each of which is validated once."""

    def __init__(self, prompt: Mapping[str, Any], classes: Mapping[str, NodeClass], folders: Folders) -> None:
        self._prompt = prompt
        self._classes = classes
        self._folders = folders
        self._errors: dict[str, Errors] = {}
        self._sources: dict[str, tuple[str, ...]] = {}
        self._dependents: dict[str, list[str]] = {}

    def accepts(self, output: str) -> bool:
        bad = [node_id for node_id in self._reach(output) if self._errors[node_id]]
        for node_id in bad:
            self._dependents.setdefault(node_id, []).append(output)
        return not bad

    def summary(self, outputs: list[str]) -> str:
        """Return the errors of the output nodes themselves, for the general error's details."""
        own = [
            error for output in outputs for error in self._errors.get(output, ()) if error["type"] != "dependency_cycle"
        ]
        return "\n".join(f"{error['message']}: {error['details']}" for error in own)

    def node_errors(self, outputs: list[str]) -> dict[str, Any]:
        return {
            node_id: {
                "errors": self._errors[node_id],
                "dependent_outputs": dependents,
                "class_type": self._prompt[node_id]["class_type"],
            }
            for node_id, dependents in self._dependents.items()
        }

    def _reach(self, output: str) -> list[str]:
        """Validate a node and its dependencies by declared inputs, and return them.

        A cycle is an error of each of its nodes. The walk is iterative, since a chain may be as long as the graph.
        """
        reached = {output: None}
        path = {output: iter(self._checked(output))}  # from the output to the current node, in order
        while path:
            node_id = next(reversed(path))
            source = next(path[node_id], None)
            if source is None:
                del path[node_id]
            elif source in path:
                ring = list(path)
                self._blame_cycle([*ring[ring.index(source) :], source])
            elif source not in reached:
                reached[source] = None
                path[source] = iter(self._checked(source))
        return list(reached)

    def _checked(self, node_id: str) -> tuple[str, ...]:
        """Validate a node and return its dependencies."""
        if node_id not in self._sources:
            self._errors[node_id] = self._check_node(node_id)
            declared = self._classes[self._prompt[node_id]["class_type"]].inputs()
            self._sources[node_id] = tuple(
                value[0]
                for name, value in self._prompt[node_id].get("inputs", {}).items()
                if name.split(".")[0] in declared and is_link(value) and value[0] in self._prompt
            )
        return self._sources[node_id]

    def _blame_cycle(self, ring: list[str]) -> None:
        words = " -> ".join(f"{node_id} ({self._prompt[node_id]['class_type']})" for node_id in ring)
        for node_id in ring[:-1]:
            if not any(error["type"] == "dependency_cycle" for error in self._errors[node_id]):
                info = {"node_id": node_id, "cycle_nodes": ring[:-1]}
                self._errors[node_id].append(_error("dependency_cycle", "Dependency cycle detected", words, info))

    def _check_node(self, node_id: str) -> Errors:
        node = self._prompt[node_id]
        declared = self._classes[node["class_type"]]
        if "inputs" not in node:
            return [_exception("'inputs'", "KeyError")]
        errors: Errors = []
        parts = declared.parts(node["inputs"])
        for name, config in {**declared.inputs(), **parts}.items():
            if name not in node["inputs"]:
                if (name in declared.required or name in parts) and not any(
                    key.startswith(f"{name}.") for key in node["inputs"]
                ):
                    errors.append(
                        _error("required_input_missing", "Required input is missing", name, {"input_name": name})
                    )
                continue
            error = self._check_input(node["inputs"], name, config)
            if error is not None:
                errors.append(error)
        return errors or self._check_values(declared, node["inputs"])

    def _check_input(self, inputs: dict[str, Any], name: str, config: Declared) -> dict[str, Any] | None:
        value = inputs[name]
        if isinstance(value, list):
            return self._check_link(name, value, config)
        if isinstance(value, dict) and "__value__" in value:  # the form of a list that is a value
            inputs[name] = value = value["__value__"]
        kind = config[0]
        about = {"input_name": name, "input_config": list(config), "received_value": value}
        if isinstance(kind, list):
            # The list of an upload is empty, and the node's own check decides.
            if kind and value not in kind:
                return _error("value_not_in_list", "Value not in list", f"{name}: '{value}' not in {kind}", about)
            return None
        if kind not in CONVERSIONS:
            return None
        try:
            inputs[name] = value = CONVERSIONS[kind](value)
        except (ValueError, TypeError, OverflowError) as error:
            message = f"Failed to convert an input value to a {kind} value"
            return _error(
                "invalid_input_type", message, f"{name}, {value}, {error}", about | {"exception_message": str(error)}
            )
        return _check_range(name, value, config[1], about)

    def _check_link(self, name: str, value: list[Any], config: Declared) -> dict[str, Any] | None:
        if len(value) != 2:
            about = {"input_name": name, "input_config": list(config), "received_value": value}
            return _error(
                "bad_linked_input", "Bad linked input, must be a length-2 list of [node_id, slot_index]", name, about
            )
        source = self._prompt.get(value[0]) if isinstance(value[0], str) else None
        if source is None:
            return _exception(repr(value[0]), "KeyError")
        if not isinstance(value[1], int):
            return _exception(f"tuple indices must be integers or slices, not {type(value[1]).__name__}", "TypeError")
        outputs = self._classes[source["class_type"]].outputs
        if not -len(outputs) <= value[1] < len(outputs):  # ComfyUI indexes a tuple, from its end too
            return _exception("tuple index out of range", "IndexError")
        received, wanted = outputs[value[1]], "COMBO" if isinstance(config[0], list) else config[0]
        if "*" in (received, wanted) or MATCH_TYPE in (received, wanted) or received in wanted.split(","):
            return None
        details = f"{name}, received_type({received}) mismatch input_type({wanted})"
        about = {"input_name": name, "input_config": list(config), "received_type": received, "linked_node": value}
        return _error("return_type_mismatch", "Return type mismatch between linked nodes", details, about)

    def _check_values(self, declared: NodeClass, inputs: Mapping[str, Any]) -> Errors:
        if declared.check is None or isinstance(inputs.get(declared.check[0]), list):
            return []
        name, check = declared.check
        wrong = check(self._folders, inputs)
        if wrong is None:
            return []
        about = {"input_name": name}
        return [_error("custom_validation_failed", "Custom validation failed for node", f"{name} - {wrong}", about)]


def _check_range(name: str, value: Any, options: Mapping[str, Any], about: dict[str, Any]) -> dict[str, Any] | None:
    about = about | {"received_value": value}
    if "min" in options and value < options["min"]:
        return _error("value_smaller_than_min", f"Value {value} smaller than min of {options['min']}", name, about)
    if "max" in options and value > options["max"]:
        return _error("value_bigger_than_max", f"Value {value} bigger than max of {options['max']}", name, about)
    return None


def _error(kind: str, message: str, details: str, info: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": dict(info or {})}


def _exception(details: str, kind: str) -> dict[str, Any]:
    info = {"exception_type": kind, "traceback": []}
    return _error("exception_during_validation", "Exception when validating node", details, info)


def _missing(message: str, node_id: str, class_type: str | None, title: str | None) -> dict[str, Any]:
    info = {"node_id": node_id, "class_type": class_type, "node_title": title}
    return _error("missing_node_type", message, f"Node ID '#{node_id}'", info)
