"""Named workflows: the shipped ones fit their engines, and a user's own are checked.

`node_types.json` has the classes that shipped workflows use, reduced to names, types and choices. It comes from
GET /object_info of the image's ComfyUI with the packs of infra/nodes.toml, and `make replay-image` writes it.
"""

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from workflows.catalogue import Catalogue
from workflows.declarations import declared
from workflows.graph import parse_graph
from workflows.library import library, shipped
from workflows.manifest import BadWorkflow, Cap, NamedWorkflow

ROOT = Path(__file__).parents[3]
TYPES = json.loads((Path(__file__).parent / "node_types.json").read_text())
NEEDS_MODELS = [workflow for workflow in shipped().values() if workflow.manifest.models]
FOLDERS = {
    "unet_name": "diffusion_models",
    "model": "diffusion_models",
    "lora_name": "loras",
    "lora": "loras",
    "clip_name": "text_encoders",
    "vae_name": "vae",
    "ckpt_name": "checkpoints",
}
LOADERS = {
    ("WanVideoVAELoader", "model_name"): "vae",
    ("LoadWanVideoT5TextEncoder", "model_name"): "text_encoders",
    ("CLIPVisionLoader", "clip_name"): "clip_vision",
}
"""The folders for input names that loaders of several folders share."""
FORMAT_FIELDS = {
    "VHS_VideoCombine": {"pix_fmt", "crf", "save_metadata", "trim_to_audio"},
    "SaveVideo": {"format.codec"},
}
"""Fields that exist only for some values of `format`, here video/h264-mp4. SaveVideo has its codec there in releases
after 0.33.0; the graphs name both."""


def engine_with(workflow: NamedWorkflow, classes: dict[str, Any]) -> Catalogue:
    """Return the catalogue of an engine with just the models of this workflow's manifest. All its classes count as
    ComfyUI's own, so that ranges, choices and types of custom nodes are checked too."""
    info = copy.deepcopy(classes)
    for class_type, described in info.items():
        described["python_module"] = "nodes"
        for name, declaration in described["input"]["required"].items():
            folder = LOADERS.get((class_type, name), FOLDERS.get(name))
            if folder is not None and isinstance(declaration[0], list):
                models = workflow.manifest.models
                declaration[0] = [model.partition("/")[2] for model in models if model.startswith(f"{folder}/")]
    return Catalogue(info)


@pytest.mark.parametrize("workflow", NEEDS_MODELS, ids=lambda workflow: workflow.name)
def test_a_shipped_workflow_fits_its_engine(workflow: NamedWorkflow) -> None:
    """A shipped workflow has no fault in its engine, and its manifest names the packs and models that it needs."""
    catalogue = engine_with(workflow, TYPES["core"] | TYPES["custom"])
    verdict = catalogue.check(parse_graph(workflow.graph), frozenset({"input.png"}))
    assert [fault.message for fault in verdict.faults] == []
    without = engine_with(workflow, TYPES["core"])
    faults = without.check(parse_graph(workflow.graph), frozenset({"input.png"})).faults
    assert bool(faults) == bool(workflow.manifest.nodes)


@pytest.mark.parametrize("workflow", NEEDS_MODELS, ids=lambda workflow: workflow.name)
def test_a_shipped_workflow_sets_no_field_that_its_node_lacks(workflow: NamedWorkflow) -> None:
    """Each field of a shipped workflow exists in its class, because an engine silently ignores unknown fields."""
    classes = TYPES["core"] | TYPES["custom"]
    for node_id, node in workflow.graph.items():
        about, more = declared(classes[node["class_type"]]), FORMAT_FIELDS.get(node["class_type"], ())
        assert [field for field in node["inputs"] if not about.takes(field) and field not in more] == [], node_id


@pytest.mark.parametrize(
    ("node_id", "field", "value"),
    [
        ("27", "scheduler", "eulerish"),
        ("27", "cfg", 31.0),
        ("22", "attention_mode", "sage"),
        ("22", "base_precision", "fp17"),
        ("22", "lora", ["38", 0]),
        ("68", "keep_proportion", "squash"),
        ("60", "format", "video/h266-mp4"),
    ],
)
def test_an_invalid_value_of_a_custom_node_is_found(node_id: str, field: str, value: Any) -> None:
    """Invalid choices, ranges and link types of custom nodes in a shipped workflow are found."""
    workflow = shipped()["wan22"]
    graph = json.loads(json.dumps(workflow.graph))
    graph[node_id]["inputs"][field] = value
    verdict = engine_with(workflow, TYPES["core"] | TYPES["custom"]).check(parse_graph(graph), frozenset({"input.png"}))
    (fault,) = verdict.faults
    assert f"node {node_id}" in fault.message
    assert field in fault.message


def test_the_first_versions_workflow_follows_the_workers_attention() -> None:
    """The workflow of the first version uses ComfyUI's attention, `comfy`, by default and offers modes that its node
    has."""
    workflow = shipped()["wan22"]
    assert workflow.default("attention") == "comfy"
    modes = TYPES["custom"]["WanVideoModelLoader"]["input"]["optional"]["attention_mode"][0]
    assert set(workflow.manifest.inputs["attention"].choices or ()) <= set(modes)


@pytest.mark.parametrize("workflow", NEEDS_MODELS, ids=lambda workflow: workflow.name)
def test_requirements_of_a_shipped_workflow_are_in_the_manifests(workflow: NamedWorkflow) -> None:
    """The models of a shipped workflow are in infra/models.toml and its packs in infra/nodes.toml."""
    models = tomllib.loads((ROOT / "infra" / "models.toml").read_text())["model"]
    assert set(workflow.manifest.models) <= {f"{model['folder']}/{model['file']}" for model in models}
    nodes = tomllib.loads((ROOT / "infra" / "nodes.toml").read_text())["node"]
    assert set(workflow.manifest.nodes) <= {node["name"] for node in nodes}


def test_the_first_versions_workflow_keeps_its_node_ids() -> None:
    """Node 107 loads the image, node 16 has the prompt, and the video keeps its file name prefix."""
    graph = shipped()["wan22"].graph
    assert graph["107"]["class_type"] == "LoadImage"
    assert "positive_prompt" in graph["16"]["inputs"]
    assert graph["60"]["inputs"]["filename_prefix"] == "Wan22_SmoothLoop"
    assert graph["89"]["inputs"]["start_image"] == graph["89"]["inputs"]["end_image"]


def test_a_loop_does_not_show_its_first_frame_twice() -> None:
    """The video of wan22-core leaves out the last frame, which equals the first."""
    graph = shipped()["wan22-core"].graph
    assert graph["89"]["inputs"]["start_image"] == graph["89"]["inputs"]["end_image"]
    shown = graph[graph["59"]["inputs"]["images"][0]]
    count = graph[shown["inputs"]["length"][0]]
    size, output = count["inputs"]["values.a"]
    assert (shown["class_type"], shown["inputs"]["batch_index"]) == ("ImageFromBatch", 0)
    assert count["inputs"]["expression"] == "a - 1"
    assert (graph[size]["class_type"], output) == ("GetImageSize", 2)  # the third output is the number of pictures
    assert graph[size]["inputs"]["image"] == shown["inputs"]["image"] == ["28", 0]


@pytest.mark.parametrize("workflow", [shipped()[name] for name in ("wan21", "wan21-t2v")], ids=lambda one: one.name)
def test_the_first_versions_other_models_have_workflows(workflow: NamedWorkflow) -> None:
    """Wan 2.1 has a workflow for image to video, which also needs clip_vision_h, and one for text to video."""
    models = [model for model in workflow.manifest.models if "/wan2.1_" in model]
    assert len(models) == 1
    assert ("clip_vision/clip_vision_h.safetensors" in workflow.manifest.models) == ("i2v" in models[0])


@pytest.mark.parametrize("workflow", NEEDS_MODELS, ids=lambda workflow: workflow.name)
def test_a_shipped_workflow_declares_its_resources(workflow: NamedWorkflow) -> None:
    """A shipped workflow declares its GPU and worker memory; one that makes videos also declares a time limit and a
    cap."""
    manifest = workflow.manifest
    assert manifest.vram_gb
    assert manifest.ram_gb
    if "frames" in manifest.inputs:
        assert manifest.timeout_s
        assert manifest.cap is not None
        most = {name: manifest.inputs[name].max or 0 for name in manifest.cap.inputs}
        assert manifest.cap.excess(most) is not None


GRAPH = json.dumps(
    {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "color": ["2", 0], "ok": True}},
        "2": {"class_type": "PrimitiveInt", "inputs": {"value": 0}},
    }
)
PLAIN = 'title = "T"\ngraph = "g.json"\n'
SIZED = (
    '[inputs.width]\ntype = "integer"\nplaces = ["1.width"]\n'
    '[inputs.again]\ntype = "integer"\nplaces = ["1.width"]\n[cap]\ninputs = ["width", "again"]\n'
)


def put(folder: Path, manifest: str, name: str = "mine", graph: str = GRAPH) -> Path:
    (folder / "g.json").write_text(graph)
    (folder / f"{name}.toml").write_text(manifest)
    return folder


def test_a_users_own_workflows_join_the_shipped_ones(tmp_path: Path) -> None:
    """A user's own workflows are listed with the shipped ones in the order of their names."""
    put(tmp_path, PLAIN + '[inputs.width]\ntype = "integer"\nplaces = ["1.width"]\nmin = 1\n')
    known = library(tmp_path)
    assert list(known) == sorted([*shipped(), "mine"])
    assert known["mine"].default("width") == 8


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("title = ", "mine.toml"),
        ('title = "T"\n', "mine.toml: graph"),
        (PLAIN + '[cap]\ninputs = ["a", "b"]\nproduct = 9\n', "mine.toml: cap.inputs: a is no input that is a number"),
        (PLAIN + SIZED + "product = 63\n", "mine.toml: cap.product: the graph's own width × again is 64"),
        (PLAIN + SIZED.replace('"width", ', "") + "product = 64\n", "mine.toml: cap.inputs"),
        ('title = "T"\ngraph = "../g.json"\n', "mine.toml: graph"),
        ('title = "T"\ngraph = "none.json"\n', "none.json cannot be read"),
        (PLAIN + "spice = 1\n", "mine.toml: spice"),
        (PLAIN + '[inputs.x]\ntype = "colour"\nplaces = ["1.width"]\n', "mine.toml: inputs.x.type"),
        (PLAIN + '[inputs.x]\ntype = "integer"\nplaces = []\n', "mine.toml: inputs.x.places"),
        (PLAIN + '[inputs.x]\ntype = "integer"\nplaces = ["9.width"]\n', "9.width: the graph has no such input"),
        (PLAIN + '[inputs.x]\ntype = "integer"\nplaces = ["1.color"]\n', "a link leads there"),
        (PLAIN + '[inputs.x]\ntype = "string"\nplaces = ["1.width"]\n', "own value 8 is no string"),
        (PLAIN + '[inputs.x]\ntype = "integer"\nplaces = ["1.width"]\nmin = 9\n', "own value 8 is no integer"),
        (PLAIN + '[inputs.x]\ntype = "integer"\nplaces = ["1.ok"]\n', "own value True is no integer"),
        (PLAIN + '[inputs.x]\ntype = "choice"\nplaces = ["1.width"]\n', "choices belong to"),
        (PLAIN + '[inputs.x]\ntype = "string"\nplaces = ["1.width"]\nmax = 3\n', "are for numbers"),
    ],
)
def test_an_invalid_manifest_is_refused_with_its_field(manifest: str, said: str, tmp_path: Path) -> None:
    """The error of an invalid manifest names its file and its field."""
    with pytest.raises(BadWorkflow) as refused:
        library(put(tmp_path, manifest))
    assert said in str(refused.value)


def test_an_invalid_graph_or_name_is_refused(tmp_path: Path) -> None:
    """A workflow with an invalid graph, an invalid name or the name of a shipped one is refused."""
    with pytest.raises(BadWorkflow, match=r"g\.json"):
        library(put(tmp_path, PLAIN, graph="{"))
    with pytest.raises(BadWorkflow, match="small letters"):
        library(put(tmp_path, PLAIN, name="Mine"))
    (tmp_path / "Mine.toml").unlink()
    (tmp_path / "mine.toml").unlink()
    with pytest.raises(BadWorkflow, match="still is shipped"):
        library(put(tmp_path, PLAIN, name="still"))
    with pytest.raises(BadWorkflow, match="not a folder"):
        library(tmp_path / "nowhere")


def test_a_product_beyond_every_float_exceeds_a_cap() -> None:
    """Integers whose product no float can have exceed a cap as other values do."""
    cap = Cap(inputs=("a", "b", "c"), product=64)
    said = "a × b × c is more than 10^18, at most 64 is allowed: lower one of them"
    assert cap.excess({"a": 10**300, "b": 10**300, "c": 1.5}) == said
    assert cap.excess({"a": 10**300, "b": 10**300, "c": 0}) is None
    assert cap.excess({"a": 1.6, "b": 40, "c": 1}) is None
    assert cap.excess({"a": 5, "b": 5, "c": 5}) == "a × b × c is 125, at most 64 is allowed: lower one of them"
