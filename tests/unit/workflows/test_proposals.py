"""The inputs that are proposed for a workflow, and the manifest that is written with them."""

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.submission.named import request_model
from tests.compare_editor.cases import Draft, definition, seal
from workflows.catalogue import Catalogue
from workflows.editor import convert
from workflows.manifest import named_workflow, parse_manifest
from workflows.manifest_text import comment, manifest_text, toml
from workflows.proposals import MOST_CHOSEN, ProposedInput, propose

Json = dict[str, Any]


def _class(inputs: Json, outputs: list[str], title: str, *, output: bool = False) -> Json:
    return {
        "input": {"required": inputs},
        "input_order": {"required": list(inputs)},
        "output": outputs,
        "display_name": title,
        "python_module": "nodes",
        "output_node": output,
    }


OBJECT_INFO: Json = {
    "LoadImage": _class({"image": [["a.png"], {"image_upload": True}]}, ["IMAGE"], "Load Image"),
    "Encode": _class({"text": ["STRING", {"multiline": True, "tooltip": "The text\nto encode."}]}, ["COND"], "Encode"),
    "Loader": _class({"ckpt_name": [["a.safetensors", "b.safetensors"], {}]}, ["MODEL"], "Loader"),
    "Sample": _class(
        {
            "positive": ["COND"],
            "negative": ["COND"],
            "seed": ["INT", {"default": 0, "min": 0, "max": 2**64 - 1}],
            "steps": ["INT", {"default": 20, "min": 1, "max": 100}],
            "sampler": [["euler", "heun", *(f"sampler_of_many_{number}" for number in range(20))], {}],
        },
        ["IMAGE"],
        "Sampler",
    ),
    "PrimitiveInt": _class({"value": ["INT", {"min": -(2**63), "max": 2**63}]}, ["INT"], "Int"),
    "Blur": _class({"image": ["IMAGE"], "radius": ["INT", {"min": 1, "max": 31}]}, ["IMAGE"], "Blur Image"),
    "SaveImage": _class({"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}, [], "Save Image", output=True),
}
CATALOGUE = Catalogue(OBJECT_INFO)


def sampled(**members: Any) -> Draft:
    """Return a draft with two prompts, a sampler and an output. `members` are those of the sampler."""
    draft = Draft().node(1, "Encode", ("a cat",), outputs=["COND"]).node(2, "Encode", ("blurry",), outputs=["COND"])
    draft.node(3, "Sample", (7, "fixed", 20, "euler"), outputs=["IMAGE"], **members).node(4, "SaveImage", ("pic",))
    draft.link(1, 0, 3, "positive", "COND").link(2, 0, 3, "negative", "COND")
    return draft.link(3, 0, 4, "images", "IMAGE")


def proposed(document: Json) -> list[ProposedInput]:
    return propose(document, convert(document, CATALOGUE).workflow, CATALOGUE)


def chosen(document: Json) -> dict[str, ProposedInput]:
    return {one.name: one for one in proposed(document) if one.is_chosen}


def test_prompts_and_seeds_are_proposed() -> None:
    """Prompts are named after the conditioning that they feed, and a seed has a range that JSON keeps."""
    found = chosen(sampled().document())
    assert list(found) == ["prompt", "negative_prompt", "seed"]
    assert (found["prompt"].declared.places, found["prompt"].default) == (("1.text",), "a cat")
    assert found["prompt"].declared.description == "The text to encode."
    seed = found["seed"].declared
    assert (seed.type, seed.places, seed.min, seed.max) == ("integer", ("3.seed",), 0, 2**53 - 1)


def test_other_values_are_listed_after_them() -> None:
    """A value that is not proposed is listed with its type, range and choices."""
    others = {one.name: one.declared for one in proposed(sampled().document()) if not one.is_chosen}
    assert list(others) == ["steps", "sampler", "filename_prefix"]
    assert (others["steps"].min, others["steps"].max, others["sampler"].choices[:2]) == (1, 100, ("euler", "heun"))


def test_the_inputs_of_app_mode_are_taken_as_they_are() -> None:
    """What the author chose for App mode is proposed alone, in the author's order, by any of the editor's forms."""
    graph = "e13112f7-3d09-4ae1-9e84-633a0627d945"
    for entry in (
        [4, "filename_prefix"],
        ["4", "filename_prefix", {}],
        [f"{graph}:4:filename_prefix", "filename_prefix"],
    ):
        linear = {"inputs": [entry, [3, "steps"], [3, "unknown"], "x", [9, "steps"], [3, "steps"]], "outputs": [4]}
        found = chosen(sampled().document(extra={"linearData": linear}))
        assert list(found) == ["filename_prefix", "steps"]
        assert {one.source for one in found.values()} == {"app"}


def test_a_file_is_an_input_of_its_kind() -> None:
    """A loader's file becomes an image, and two of them have their titles or a number."""
    draft = (
        sampled()
        .node(5, "LoadImage", ("a.png", "image"), outputs=["IMAGE"])
        .node(6, "LoadImage", ("b.png", "image"), outputs=["IMAGE"], title="Style")
    )
    found = chosen(draft.node(7, "LoadImage", ("c.png", "image"), outputs=["IMAGE"]).document())
    assert [name for name, one in found.items() if one.declared.type == "image"] == ["image", "style", "image_2"]
    assert found["image"].default is None


def test_a_primitive_node_sets_all_that_it_feeds() -> None:
    """A PrimitiveNode is one input with each widget that it feeds as a place; its title is its name."""
    draft = (
        Draft()
        .node(1, "LoadImage", ("a.png", "image"), outputs=["IMAGE"])
        .node(2, "Blur", (1,), outputs=["IMAGE"])
        .node(3, "Blur", (1,), outputs=["IMAGE"])
    )
    draft.node(4, "PrimitiveNode", (9, "fixed"), outputs=["INT"], title="Softness!").node(5, "SaveImage", ("pic",))
    draft.link(1, 0, 2, "image", "IMAGE").link(4, 0, 2, "radius", "INT", widget=True)
    draft.link(2, 0, 3, "image", "IMAGE").link(4, 0, 3, "radius", "INT", widget=True).link(3, 0, 5, "images", "IMAGE")
    one = chosen(draft.document())["softness"]
    assert (one.source, one.declared.places, one.default) == ("primitive", ("2.radius", "3.radius"), 9)
    assert (one.declared.min, one.declared.max) == (1, 31)


def test_a_primitive_of_comfyui_is_named_after_what_it_feeds() -> None:
    """Without a title of its own, PrimitiveInt has the name of the input that it feeds, and no bounds beyond JSON's."""
    draft = (
        Draft()
        .node(1, "LoadImage", ("a.png", "image"), outputs=["IMAGE"])
        .node(2, "Blur", (1,), outputs=["IMAGE"])
        .node(3, "PrimitiveInt", (5,), outputs=["INT"])
    )
    draft.node(4, "SaveImage", ("pic",)).link(1, 0, 2, "image", "IMAGE").link(3, 0, 2, "radius", "INT", widget=True)
    one = chosen(draft.link(2, 0, 4, "images", "IMAGE").document())["radius"]
    assert (one.declared.places, one.declared.min, one.declared.max) == (("3.value",), None, None)


def test_a_title_proposes_the_only_value_of_a_node() -> None:
    """A node with one value and a title of its own becomes an input of this name."""
    draft = (
        Draft()
        .node(1, "LoadImage", ("a.png", "image"), outputs=["IMAGE"])
        .node(2, "Blur", (3,), outputs=["IMAGE"], title="How soft")
    )
    draft.node(3, "SaveImage", ("pic",)).link(1, 0, 2, "image", "IMAGE").link(2, 0, 3, "images", "IMAGE")
    assert chosen(draft.document())["how_soft"].declared.places == ("2.radius",)


def shown_by_subgraph() -> Json:
    """Return a file whose subgraph shows a text and a model of its inner nodes, and hides the steps."""
    part, inner = definition(1, {"text": "STRING", "ckpt_name": "COMBO"}, {"out": "IMAGE"})
    part["inputs"][0]["label"] = "Scene"
    inner.node(1, "Encode", ("inner",), outputs=["COND"]).node(
        2, "Sample", (7, "fixed", 20, "euler"), outputs=["IMAGE"]
    )
    inner.node(3, "Loader", ("a.safetensors",), outputs=["MODEL"])
    inner.link(-10, 0, 1, "text", "STRING", widget=True).link(-10, 1, 3, "ckpt_name", "COMBO", widget=True)
    inner.link(1, 0, 2, "positive", "COND").link(2, 0, -20, "out", "IMAGE")
    part = seal(part, inner)
    draft = Draft().node(8, part["id"], ("a dog", "b.safetensors"), outputs=["IMAGE"]).node(9, "SaveImage", ("pic",))
    draft.nodes[8]["inputs"] = [
        {"name": name, "type": "*", "link": None, "widget": {"name": name}} for name in ("text", "ckpt_name")
    ]
    return draft.link(8, 0, 9, "images", "IMAGE").document(part)


def test_what_a_subgraph_shows_is_proposed() -> None:
    """A widget of an instance is an input by its label, at the place of the inner node; models and the rest are not."""
    found = chosen(shown_by_subgraph())
    assert list(found) == ["scene"]
    assert (found["scene"].declared.places, found["scene"].default) == (("8:1.text",), "a dog")
    others = [one.name for one in proposed(shown_by_subgraph()) if not one.is_chosen]
    assert {"ckpt_name", "steps", "filename_prefix"} <= set(others)


def test_app_mode_names_the_widgets_of_instances() -> None:
    """App mode may name a widget by the instance that shows it, or by the inner node's own id."""
    for entry in ([8, "text"], [1, "text"]):
        document = shown_by_subgraph()
        document["extra"] = {"linearData": {"inputs": [entry]}}
        assert [one.declared.places for one in chosen(document).values()] == [("8:1.text",)]


def test_seeds_are_one_input() -> None:
    """All seeds become one input, unless one of them is beyond the range of another."""
    draft = sampled().node(5, "Sample", (8, "fixed", 20, "euler"), outputs=["IMAGE"]).node(6, "SaveImage", ("more",))
    document = draft.link(5, 0, 6, "images", "IMAGE").document()
    assert chosen(document)["seed"].declared.places == ("3.seed", "5.seed")


def test_a_size_is_proposed_if_it_is_the_only_one() -> None:
    """One width is an input; of several, none is."""
    graph = {"1": {"class_type": "A", "inputs": {"text": "x", "width": 64, "height": 32}}}
    found = propose(graph, graph, Catalogue.absent())
    assert [one.name for one in found if one.is_chosen] == ["text", "width", "height"]
    graph["2"] = {"class_type": "A", "inputs": {"width": 16}}
    found = propose(graph, graph, Catalogue.absent())
    assert [one.name for one in found if one.is_chosen] == ["text", "height"]


def test_a_graph_without_declarations_is_proposed_by_its_values() -> None:
    """Of a graph in API format whose classes are unknown, the types are those of the values."""
    graph = {
        "1": {
            "class_type": "A",
            "inputs": {"text": "x", "seed": 3, "on": True, "size": 1.5, "list": {"__value__": []}},
        },
        "2": {"class_type": "B", "inputs": {"a": ["1", 0], "copy": "y", "9": 1}},
    }
    found = propose(graph, graph, Catalogue.absent())
    assert [(one.name, one.declared.type, one.is_chosen) for one in found] == [
        ("text", "string", True),
        ("seed", "integer", True),
        ("on", "boolean", False),
        ("size", "number", False),
        ("input_copy", "string", False),  # `copy` is a method of pydantic's models
        ("input_9", "integer", False),
    ]


def test_the_number_of_inputs_is_bounded() -> None:
    """At most MOST_CHOSEN inputs are proposed, each with a name of its own."""
    graph = {str(number): {"class_type": "A", "inputs": {"text": "x"}} for number in range(MOST_CHOSEN + 50)}
    found = propose(graph, graph, Catalogue.absent())
    assert len({one.name for one in found}) == len(found) == MOST_CHOSEN


def manifest_of(document: Json, source: str = "file.json") -> str:
    return manifest_text("mine", 'a "title"', source, proposed(document), ["loras/a.safetensors"], ["Pack"])


@pytest.mark.parametrize("document", [sampled().document(), shown_by_subgraph()])
def test_a_manifest_loads(document: Json) -> None:
    """The manifest and the graph load as a named workflow, also with every comment made an input."""
    text, graph = manifest_of(document), convert(document, CATALOGUE).workflow
    workflow = named_workflow("mine", parse_manifest("mine", text), json.dumps(graph))
    request_model(workflow)
    assert list(workflow.manifest.inputs) == list(chosen(document))
    assert (workflow.manifest.models, workflow.manifest.nodes) == (("loras/a.safetensors",), ("Pack",))
    uncommented = "\n".join(
        line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in text.splitlines()
    )
    whole = named_workflow("mine", parse_manifest("mine", uncommented), json.dumps(graph))
    assert len(whole.manifest.inputs) == len(proposed(document))


@given(st.text(st.characters(codec=None)))
def test_any_text_is_a_string_of_toml(text: str) -> None:
    """Any text becomes a string that TOML reads back, and a comment of one line."""
    read = tomllib.loads(f"a = {toml(text)}  # {comment(text)}\nb = 1")
    assert read["b"] == 1
    assert read["a"] == "".join("\ufffd" if 0xD800 <= ord(one) <= 0xDFFF else one for one in text)
