"""`comfyui-modal workflows list` and `workflows show`; `convert`, `inspect` and `add` have modules of their own."""

import json

from cyclopts import App

from infra.cli.arguments import AsJson, Target
from infra.cli.output import Json, Terminal, print_json

workflows = App(name="workflows")
workflows.command(
    "infra.cli.conversion:convert", name="convert", help="Convert a file of ComfyUI's editor to the API format."
)
workflows.command(
    "infra.cli.inspection:inspect", name="inspect", help="List what a workflow needs, and what the deployment lacks."
)
workflows.command("infra.cli.adding:add", name="add", help="Make a named workflow from a file of ComfyUI's editor.")


@workflows.command(name="list")
def list_workflows(*, as_json: AsJson = False, target: Target = Target()) -> None:
    """List the workflows that can be run by name."""
    with target.client() as client:
        found = client.workflows()
    if as_json:
        print_json(found)
        return
    width = max((len(row["name"]) for row in found), default=0)
    console = Terminal()
    for row in found:
        console.print_line(f"{row['name']:<{width}}  {_state(row):<8}  {row['title']}")


@workflows.command
def show(name: str, *, as_json: AsJson = False, target: Target = Target()) -> None:
    """Show a workflow: its inputs, what it needs, whether it can run. As JSON, its graph too."""
    with target.client() as client:
        found = client.workflow(name)
    if as_json:
        print_json(found)
        return
    console = Terminal()
    for line in _lines(found):
        console.print_line(line)


def _lines(found: Json) -> list[str]:
    lines = [f"{found['name']}: {found['title']} ({_state(found)})", found["description"], ""]
    lines += [_input(one) for one in found["inputs"]]
    lines += _bounds(found)
    lines += [f"needs {name}" for name in (*found["models"], *found["nodes"])]
    return lines + [f"missing: {what}" for what in found["missing"]]


def _bounds(found: Json) -> list[str]:
    cap, lines = found["cap"], []
    if cap is not None:
        lines.append(f"at most {cap['product']} for {' × '.join(cap['inputs'])}")
    if found["timeout_s"] is not None:
        lines.append(f"runs for at most {found['timeout_s']} s, where a job names no limit")
    memory = {"GPU memory": found["vram_gb"], "memory": found["ram_gb"]}
    return lines + [f"needs {size:g} GB of {what}" for what, size in memory.items() if size is not None]


def _input(one: Json) -> str:
    limits = [f"{bound} {_number(one[bound])}" for bound in ("min", "max") if one[bound] is not None]
    facts = [one["type"], *limits, *one["choices"]]
    facts.append("required" if one["required"] else f"default {json.dumps(one['default'])}")
    about = f"  {one['description']}" if one["description"] else ""
    return f"  {one['name']:<16} {', '.join(facts)}{about}"


def _number(value: float) -> str:
    """Format a number without an exponent."""
    # `:g` would round: the limit of a seed has sixteen or more digits.
    return str(int(value)) if value == int(value) else str(value)


def _state(row: Json) -> str:
    return {True: "ready", False: "lacks", None: "unknown"}[row["runnable"]]
