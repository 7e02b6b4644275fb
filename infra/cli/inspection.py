"""`comfyui-modal workflows inspect`: what a workflow needs, without or with a deployment."""

from pathlib import Path

from infra.cli.arguments import AsJson, Target
from infra.cli.conversion import EditorFile, ObjectInfo, catalogue_of
from infra.cli.output import Json, Terminal, print_json
from infra.cli.submission import load, refusal

_CORE = "comfy-core"
"""The registry's id of ComfyUI itself."""


def inspect(
    file: EditorFile, *, object_info: ObjectInfo = None, as_json: AsJson = False, target: Target = Target()
) -> None:
    """List the packs of custom nodes, the models, the inputs and the outputs of a workflow, and what is lacking.

    By default what the deployment lacks; with --object-info, what the ComfyUI lacks that it was recorded from.
    """
    found = inspected_by(load(file, prefer="workflow"), object_info, target)
    if as_json:
        print_json(found)
        return
    console = Terminal()
    for line in _lines(found):
        console.print_line(line)


def inspected_by(document: Json, object_info: Path | None, target: Target) -> Json:
    """Return what POST /v1/workflows/inspect answers, by a recorded object_info or the deployment. Raises `Refused`."""
    if object_info is None:
        with target.client() as client:
            return client.inspect_workflow(document)
    from app.api.inspection import inspected
    from workflows.errors import WorkflowError
    from workflows.inspection import inspect as inspect_document
    from workflows.inventory import models_of

    catalogue = catalogue_of(object_info)
    try:
        return inspected(inspect_document(document, catalogue, models_of(catalogue))).model_dump(mode="json")
    except WorkflowError as error:
        raise refusal(error.message, error.hint) from None


def _lines(found: Json) -> list[str]:
    lines = ["packs:", *map(_pack, found["packs"])]
    lines += ["models:", *map(_model, found["models"])] if found["models"] else ["models: none"]
    if found["refusal"] is None:
        proposed = [one for one in found["inputs"] if one["source"] != "other"]
        others = len(found["inputs"]) - len(proposed)
        lines += ["inputs:", *(f"  {one['name']} ({one['type']}): {one['origin']}" for one in proposed)]
        lines += [f"  and {others} other values"] if others else []
        lines += ["outputs:", *(f"  node {one['node']}: {one['title']}" for one in found["outputs"])]
    else:
        lines += [f"not converted: {found['refusal']['detail']}", f"  → {found['refusal']['hint']}"]
    return lines + _lacking(found)


def _pack(pack: Json) -> str:
    name = pack["registry_id"] or pack["repository"] or "of a pack that the file does not name"
    made_with = ", ".join([*pack["versions"], *pack["commits"]])
    repository = f", {pack['repository']} on GitHub" if pack["repository"] and pack["registry_id"] else ""
    return f"  {name} {made_with}".rstrip() + f"{repository}: {', '.join(pack['classes'])}"


def _model(model: Json) -> str:
    name = f"{model['folder']}/{model['file']}" if model["folder"] else model["file"]
    state = {True: "present", False: "lacking", None: "unknown"}[model["is_present"]]
    source = f"  {model['url']}" if model["url"] else ""
    return f"  {state:<8} {name}{source}"


def _lacking(found: Json) -> list[str]:
    classes, models = found["missing_classes"], found["missing_models"]
    lines = [f"lacks the node classes {', '.join(classes)}"] if classes else []
    if any(pack["missing"] and pack["registry_id"] != _CORE for pack in found["packs"]):
        lines.append("  → add these packs to infra/nodes.toml with repository and commit, and deploy again")
    lines += [f"lacks the models {', '.join(models)}"] if models else []
    if any(model["is_present"] is False and model["url"] for model in found["models"]):
        lines.append("  → comfyui-modal models sync --from-workflow FILE downloads those with a source")
    return lines or (["lacks nothing"] if all(pack["missing"] is not None for pack in found["packs"]) else [])
