"""What a workflow names (packs, models, where to get them), and what an engine lacks of it."""

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compare_editor.cases import Draft
from workflows.catalogue import Catalogue
from workflows.errors import NotAWorkflow, WorkflowError
from workflows.inspection import Inspection, inspect
from workflows.inventory import models_of
from workflows.needs import MOST_CLASSES, MOST_MODELS, UsedNode, needed_models

Json = dict[str, Any]
URL = "https://huggingface.co/team/models/resolve/main/vae/a.safetensors"
SHA = "ab" * 32


def _class(inputs: Json, *, module: str = "nodes", output: bool = False) -> Json:
    return {"input": {"required": inputs}, "output": ["X"], "python_module": module, "output_node": output}


OBJECT_INFO = {
    "VAELoader": _class({"vae_name": [["a.safetensors"], {}]}),
    "CLIPLoader": _class({"clip_name": [["old.safetensors"], {}]}),
    "Packed": _class({"value": ["STRING", {}]}, module="custom_nodes.the-pack"),
    "SaveImage": _class({"images": ["X"], "filename_prefix": ["STRING", {}]}, output=True),
}
CATALOGUE = Catalogue(OBJECT_INFO)


def inspected(document: Any, catalogue: Catalogue = CATALOGUE) -> Inspection:
    return inspect(document, catalogue, models_of(catalogue) if catalogue.is_known else None)


def vae(name: str, *noted: Any, **properties: Any) -> Draft:
    draft = Draft().node(1, "VAELoader", (name,), outputs=["X"], properties={"models": list(noted), **properties})
    return draft.node(2, "SaveImage", ("pic",)).link(1, 0, 2, "images", "X")


def models(document: Any, catalogue: Catalogue = CATALOGUE) -> list[tuple[Any, ...]]:
    found = inspected(document, catalogue).models
    return [(one.model.folder, one.model.file, one.model.url, one.model.sha256, one.is_present) for one in found]


def test_a_model_has_the_source_that_the_file_names() -> None:
    """A template's note gives a model its folder, URL and hash; the engine says whether it is there."""
    noted = {"name": "b.safetensors", "directory": "vae", "url": URL, "hash": SHA.upper(), "hash_type": "SHA256"}
    assert models(vae("b.safetensors", noted).document()) == [("vae", "b.safetensors", URL, SHA, False)]
    assert inspected(vae("b.safetensors", noted).document()).missing_models[0].file == "b.safetensors"


def test_a_model_without_a_note_has_the_folder_of_its_loader() -> None:
    """ComfyUI's own loaders say which folder a model is in."""
    assert models(vae("a.safetensors").document()) == [("vae", "a.safetensors", None, None, True)]


def test_a_note_of_a_model_that_was_replaced_is_ignored() -> None:
    """A note whose file no value names is left from an earlier choice; that of an embedding always counts."""
    noted = [{"name": "old.safetensors", "directory": "vae", "url": URL}]
    noted += [{"name": "style.safetensors", "directory": "embeddings", "url": URL}]
    found = models(vae("sub\\a.safetensors", *noted).document())
    assert [(folder, file) for folder, file, *_ in found] == [
        ("vae", "sub/a.safetensors"),
        ("embeddings", "style.safetensors"),
    ]


@pytest.mark.parametrize(
    "noted", ["x", 1, None, {}, {"name": 1}, {"name": "b.safetensors", "hash": "x", "url": ["a"], "directory": 3}]
)
def test_a_malformed_note_gives_no_source(noted: Any) -> None:
    """Notes of any form are read without an error."""
    assert models(vae("b.safetensors", noted).document()) == [("vae", "b.safetensors", None, None, False)]


def test_models_that_many_notes_and_values_name_are_listed_up_to_a_limit() -> None:
    """A file that names one model in many folders, by many paths, does not list each path with each folder."""
    noted = [{"name": "a.safetensors", "directory": f"folder{number}"} for number in range(400)]
    used = [f"part{number}/a.safetensors" for number in range(400)]
    nodes = [UsedNode("VAELoader", used, {"models": noted})]
    tracemalloc.start()
    try:
        assert len(needed_models({}, nodes)) == MOST_MODELS
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_a_model_of_many_classes_lists_a_few() -> None:
    """A thousand models that a thousand classes name do not make a million names in the answer."""
    noted = [{"name": "a.safetensors", "directory": f"folder{number}"} for number in range(100)]
    nodes = [UsedNode(f"Class{number}", ["a.safetensors"], {"models": noted}) for number in range(100)]
    models = needed_models({}, nodes)
    assert (len(models), {len(model.classes) for model in models}) == (100, {MOST_CLASSES})


def test_packs_are_named_as_the_editor_noted() -> None:
    """Nodes of one pack are one entry, with its versions and commits, and the classes that the engine lacks."""
    draft = Draft()
    draft.node(1, "Packed", properties={"cnr_id": "the-pack", "ver": "1.2.0"})
    draft.node(2, "Other", properties={"cnr_id": "The-Pack", "aux_id": "me/the-pack", "ver": "abcdef0123"})
    draft.node(3, "Third", properties={"aux_id": "me/third", "ver": "unknown"}).node(4, "Unnamed").node(5, "SaveImage")
    draft.node(6, "Muted", mode=2)
    found = {(one.pack.registry_id, one.pack.repository): one for one in inspected(draft.document()).packs}
    assert list(found) == [("the-pack", "me/the-pack"), (None, "me/third"), (None, None), ("comfy-core", None)]
    first = found["the-pack", "me/the-pack"]
    assert (first.pack.versions, first.pack.commits, first.missing) == ({"1.2.0"}, {"abcdef0123"}, ["Other"])
    assert found[None, None].pack.classes == {"Unnamed"}
    assert inspected(draft.document()).missing_classes == ["Other", "Third", "Unnamed"]


def test_a_file_that_cannot_be_converted_says_why() -> None:
    """Without a conversion there are no inputs and outputs, and the models are listed all the same."""
    draft = vae("b.safetensors").node(3, "Absent")
    found = inspected(draft.document())
    assert (found.workflow, found.inputs, found.outputs) == (None, [], [])
    assert found.refusal is not None
    assert "Absent" in found.refusal.message
    assert models(draft.document()) == [(None, "b.safetensors", None, None, False)]


def test_without_an_engine_nothing_is_called_missing() -> None:
    """While the engine's classes and files are not known, presence is None."""
    found = inspected(vae("b.safetensors").document(), Catalogue.absent())
    assert (found.missing_classes, found.packs[0].missing, found.models[0].is_present) == ([], None, None)
    assert found.refusal is not None


def test_a_graph_is_inspected_too() -> None:
    """A graph in API format has its packs in `_meta`, its models in its inputs, and its outputs."""
    graph = {
        "1": {"class_type": "VAELoader", "inputs": {"vae_name": "c.safetensors"}, "_meta": {"cnr_id": "comfy-core"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Mine"}},
    }
    found = inspected(graph)
    assert models(graph) == [("vae", "c.safetensors", None, None, False)]
    assert [(one.node, one.title) for one in found.outputs] == [("2", "Mine")]
    with pytest.raises(NotAWorkflow):
        inspected(["no", "graph"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.sampled_from(["a.safetensors", "VAELoader", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["nodes", "models", "name", "id", "type", "properties", "inputs"]), inner)
    ),
    max_leaves=12,
)


@given(JSON, JSON, JSON)
def test_no_document_crashes_it(values: Any, properties: Any, extra: Any) -> None:
    """Any JSON is inspected, or refused by an error of a workflow."""
    node = {"id": 1, "type": "VAELoader", "widgets_values": values, "properties": properties}
    for document in ({"nodes": [node], "links": [], "extra": {"linearData": extra}}, {"1": extra}, values):
        try:
            inspected(document)
        except WorkflowError:
            continue
