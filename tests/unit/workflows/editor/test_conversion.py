"""The conversion of the editor's files, held against recorded answers of the editor itself (`make compare-editor`)."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.compare_editor.answers import differences
from tests.compare_editor.cases import NOW, OBJECT_INFO, Draft, cases, definition, seal
from workflows.catalogue import Catalogue
from workflows.editor import convert
from workflows.editor.document import parse_document
from workflows.editor.text import date_text, dynamic_prompt, fill_placeholders, script_text
from workflows.errors import BadEditorFile, NotConvertible

ANSWERS = json.loads(Path(__file__).with_name("answers.json").read_text())
CASES = dict(cases())
REFUSED = {
    "primitive through a reroute": "PrimitiveNode behind a Reroute",
    "primitive with placeholders": "PrimitiveNode with placeholders",
}
CATALOGUE = Catalogue(OBJECT_INFO)
TITLES = {name: about["display_name"] for name, about in OBJECT_INFO.items()}


def converted(document: Any) -> dict[str, Any]:
    return convert(document, CATALOGUE, now=NOW, draw=lambda _: 0).workflow


def refusal(document: Any) -> NotConvertible:
    with pytest.raises(NotConvertible) as caught:
        converted(document)
    return caught.value


def test_an_answer_of_the_editor_is_recorded_for_each_case() -> None:
    """Every small workflow has a recorded answer, and every answer a workflow."""
    assert CASES.keys() == ANSWERS.keys()


@pytest.mark.parametrize("name", sorted(CASES.keys() - REFUSED.keys()))
def test_a_workflow_is_converted_as_the_editor_does_it(name: str) -> None:
    """The graph is the one that ComfyUI's own frontend exports."""
    assert differences(converted(CASES[name]), ANSWERS[name], titles=TITLES) == []


@pytest.mark.parametrize("name", REFUSED)
def test_a_workflow_that_is_not_certain_is_refused(name: str) -> None:
    """A refusal has its stable reason and names the node."""
    error = refusal(CASES[name])
    assert error.reason == REFUSED[name]
    assert error.node_id


def with_class(name: str, inputs: dict[str, Any], module: str = "nodes") -> Catalogue:
    about = {**OBJECT_INFO["DemoInt"], "name": name, "input": {"required": inputs}, "input_order": {}}
    return Catalogue({**OBJECT_INFO, name: {**about, "python_module": module}})


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        ("Missing", (), "class not installed"),
        ("workflow>Mine", (), "group node"),
        ("Anything Everywhere", (), "Use Everywhere"),
        ("DemoInt", {"value": 3}, "values that only the pack's JavaScript can read"),
    ],
)
def test_a_node_that_cannot_be_converted_is_named(kind: str, values: Any, reason: str) -> None:
    """The refusal has the node's id, its title, a reason and what to do."""
    error = refusal(Draft().node(7, kind, values, title="My node").document())
    assert (error.reason, error.node_id, error.pointer) == (reason, "7", "/nodes/0")
    assert "node 7 “My node”" in error.message
    assert error.hint


def test_an_input_that_lives_in_the_browser_is_refused() -> None:
    """A 3D scene is rendered by the editor, so no file has it."""
    catalogue = with_class("Scene", {"scene": ["LOAD_3D", {}]})
    with pytest.raises(NotConvertible, match="renders a 3D scene"):
        convert(Draft().node(1, "Scene", ("",)).document(), catalogue)


def test_a_custom_class_with_more_values_than_widgets_is_refused() -> None:
    """Widgets that a pack's JavaScript adds would shift the values."""
    catalogue = with_class("Custom", {"a": ["INT", {}], "b": ["INT", {}]}, "custom_nodes.pack")
    fine = convert(Draft().node(1, "Custom", (1, 2)).document(), catalogue)
    assert fine.workflow["1"]["inputs"] == {"a": 1, "b": 2}
    with pytest.raises(NotConvertible, match="3 saved values, and the class declares 2"):
        convert(Draft().node(1, "Custom", (1, 2, 3)).document(), catalogue)


def test_a_place_of_a_forced_input_is_not_taken_from_a_custom_class() -> None:
    """In a custom class the place may belong to a widget that its JavaScript adds, as ShowText does."""
    catalogue = with_class("ShowText", {"text": ["STRING", {"forceInput": True}]}, "custom_nodes.pack")
    with pytest.raises(NotConvertible, match="1 saved values, and the class declares 0"):
        convert(Draft().node(1, "ShowText", ("shown",)).document(), catalogue)


def test_values_by_name_are_read_for_the_pack_that_writes_them() -> None:
    """VideoHelperSuite saves its values by name, those of the chosen format too."""
    formats = {"formats": {"video/h264": [["crf", "INT", {"default": 19}]]}}
    inputs = {"rate": ["FLOAT", {"default": 8}], "format": [["image/gif", "video/h264"], formats]}
    catalogue = with_class("VHS_Combine", inputs, "custom_nodes.vhs")
    document = (
        Draft().node(1, "VHS_Combine", {"rate": 24, "format": "video/h264", "crf": 5, "videopreview": {}}).document()
    )
    assert convert(document, catalogue).workflow["1"]["inputs"] == {"rate": 24, "format": "video/h264", "crf": 5}


def test_values_of_another_version_are_refused() -> None:
    """A name that the class does not declare is translated by the pack's JavaScript alone."""
    catalogue = with_class("VHS_Load", {"width": ["INT", {"widgetType": "VHSNUMBER"}]}, "custom_nodes.vhs")
    fine = convert(Draft().node(1, "VHS_Load", {"width": 5, "choose video to upload": "image"}).document(), catalogue)
    assert fine.workflow["1"]["inputs"] == {"width": 5}
    with pytest.raises(NotConvertible, match="saved value for `force_size`"):
        convert(Draft().node(1, "VHS_Load", {"width": 5, "force_size": "Disabled"}).document(), catalogue)


def test_named_values_that_the_editor_takes_by_position_are_refused() -> None:
    """As many named values as inputs are taken for a list by the editor, and the pack names its places differently."""
    inputs = {"width": ["INT", {}], "height": ["INT", {}]}
    values = {"height": 6, "width": 5}
    for kind in ("VHS_LoadVideo", "VHS_Other"):
        catalogue = with_class(kind, inputs, "custom_nodes.vhs")
        with pytest.raises(NotConvertible, match="take them by position"):
            convert(Draft().node(1, kind, values).document(), catalogue)
    ordered = Draft().node(1, "VHS_Other", dict(sorted(values.items(), reverse=True))).document()
    assert convert(ordered, catalogue).workflow["1"]["inputs"] == {"width": 5, "height": 6}


def test_links_by_rules_are_refused_even_if_the_class_is_installed() -> None:
    """Only the Use Everywhere pack's JavaScript knows these links."""
    with pytest.raises(NotConvertible) as caught:
        convert(Draft().node(1, "Prompts Everywhere").document(), with_class("Prompts Everywhere", {}))
    assert caught.value.reason == "Use Everywhere"


@pytest.mark.parametrize("text", ["%W.control_after_generate%", "%N.text%"])
def test_placeholders_of_widgets_that_are_not_exported_are_refused(text: str) -> None:
    """The editor would write the value of a widget that the conversion does not keep."""
    draft = Draft().node(1, "DemoWord", ("w", 1, "fixed"), title="W").node(2, "Note", ("n",), title="N")
    assert "not exported" in refusal(draft.node(3, "SaveImage", (text,)).document()).reason


def test_a_loose_link_into_a_growing_class_is_refused() -> None:
    """The editor goes by slot numbers, which growing inputs change."""
    document = Draft().node(1, "DemoSource").node(2, "DemoGrow", (1,)).document()
    document["links"] = [[1, 1, 1, 2, 0, "IMAGE"]]
    assert refusal(document).reason == "link that no input names"


@pytest.mark.parametrize(("version", "is_list"), [(0.4, False), (1, True), (None, True)])
def test_links_of_the_other_version_are_refused(version: Any, is_list: bool) -> None:
    """The editor reads links as lists or as objects by the file's version, and would drop all of the other form."""
    draft = Draft().node(1, "DemoSource").node(2, "SaveImage", ("p",)).link(1, 1, 2, "images", "IMAGE")
    with pytest.raises(BadEditorFile, match="links are") as caught:
        converted(draft.document(objects=not is_list, version=version))
    assert caught.value.pointer == "/links/0"


def test_loras_of_rgthree_are_converted_as_its_javascript_does() -> None:
    """Each saved LoRA is an input `lora_N`; a second strength is kept only where the node shows it."""
    about = with_class("Power Lora Loader (rgthree)", {"model": ["MODEL"]}, "custom_nodes.rgthree")
    lora = {"on": True, "lora": "a.safetensors", "strength": 0.5, "strengthTwo": None}
    draft = Draft().node(
        1, "Power Lora Loader (rgthree)", ({}, {"type": "x"}, lora, {**lora, "strengthTwo": 2}, {}, "")
    )
    shown = {name: value for name, value in lora.items() if name != "strengthTwo"}
    assert convert(draft.document(), about).workflow["1"]["inputs"] == {
        "PowerLoraLoaderHeaderWidget": {"type": "PowerLoraLoaderHeaderWidget"},
        "lora_1": shown,
        "lora_2": shown,
        "➕ Add Lora": "",
    }
    draft.nodes[1]["properties"] = {"Show Strengths": "Separate Model & Clip"}
    inputs = convert(draft.document(), about).workflow["1"]["inputs"]
    assert (inputs["lora_1"]["strengthTwo"], inputs["lora_2"]["strengthTwo"]) == (1, 2)


def test_seeds_of_rgthree_have_no_place_for_control() -> None:
    """Its JavaScript removes `control_after_generate` and adds three buttons, which were saved too."""
    about = with_class("Seed (rgthree)", {"seed": ["INT", {}]}, "custom_nodes.rgthree")
    document = Draft().node(1, "Seed (rgthree)", (5, "", "", "")).node(2, "Seed (rgthree)").document()
    workflow = convert(document, about).workflow
    assert [workflow[node_id]["inputs"] for node_id in ("1", "2")] == [{"seed": 5}, {"seed": -1}]


@pytest.mark.parametrize(
    ("kind", "values", "inputs"),
    [
        ("ShowText|pysssss", ("a",), {"text_0": "a"}),
        ("ShowText|pysssss", ("", ["a", "b"]), {"text_0": "a", "text_1": "b"}),
        ("Display Any (rgthree)", ("shown",), {"output": ""}),
        ("Image Comparer (rgthree)", ([],), {"rgthree_comparer": {"images": []}}),
        ("ImageConcatMulti", (5, None), {"count": 5, "Update inputs": None}),
        ("ImageResizeKJv2", (5, "<tr>note</tr>"), {"count": 5}),
    ],
)
def test_widgets_of_known_packs_are_converted_as_their_javascript_does(kind: str, values: Any, inputs: Any) -> None:
    """Some packs' JavaScript adds widgets that are always the same."""
    declared = {"count": ["INT", {}]} if "count" in inputs else {"text": ["STRING", {"forceInput": True}]}
    workflow = convert(Draft().node(1, kind, values).document(), with_class(kind, declared, "custom_nodes.x")).workflow
    assert workflow["1"]["inputs"] == inputs


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("mxSlider", (1, 2)),
        ("Image Comparer (rgthree)", ([{"url": "a", "selected": False}],)),
        ("VHS_VideoCombine", (1, 2)),
    ],
)
def test_classes_whose_javascript_changes_their_widgets_are_refused(kind: str, values: Any) -> None:
    """The number of values does not show that such a class has other widgets than it declares."""
    with pytest.raises(NotConvertible, match="JavaScript"):
        convert(Draft().node(1, kind, values).document(), with_class(kind, {"a": ["INT", {}]}, "custom_nodes.x"))


def test_get_nodes_take_what_the_set_node_of_their_name_gets() -> None:
    """Set and Get nodes are links without a line, and a Get node without its Set node is refused."""
    draft = Draft().node(1, "DemoSource").node(2, "SetNode", ("pic",), outputs=["*"])
    draft.node(3, "GetNode", ("pic",), outputs=["IMAGE"]).node(4, "SaveImage", ("p",))
    document = draft.link(1, 1, 2, "IMAGE", "IMAGE").link(3, 0, 4, "images", "IMAGE").document()
    assert converted(document)["4"]["inputs"]["images"] == ["1", 1]
    document["nodes"][2]["widgets_values"] = ["other"]
    assert refusal(document).reason == "GetNode without a SetNode"


GROWN = {"template": {"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 0, "max": 9}}
MORE = {"template": {**GROWN["template"], "max": 5}}


def growing(links: dict[str, int], option: str = "first", widget: dict[str, Any] | None = None) -> dict[str, Any]:
    """Convert a node of a class with growing inputs in the options of a dynamic combo."""
    first = {"images": ["COMFY_AUTOGROW_V3", GROWN], "films": ["COMFY_AUTOGROW_V3", GROWN], "size": ["INT", {}]}
    other = {"images": ["COMFY_AUTOGROW_V3", MORE], "new": ["COMFY_AUTOGROW_V3", GROWN]}
    options = [{"key": "first", "inputs": {"required": first}}, {"key": "other", "inputs": {"required": other}}]
    catalogue = with_class("Model", {"model": ["COMFY_DYNAMICCOMBO_V3", {"options": options}]})
    draft = Draft().node(1, "DemoSource").node(2, "Model", (option,))
    for name, count in links.items():
        for number in range(count):
            draft.link(1, 1, 2, f"model.{name}.image{number}", "IMAGE")
    if widget is not None:
        draft.nodes[2]["inputs"].append(widget)
    inputs: dict[str, Any] = convert(draft.document(), catalogue).workflow["2"]["inputs"]
    return inputs


@pytest.mark.parametrize(
    ("links", "option", "widget"),
    [
        ({"images": 3}, "first", None),
        ({"images": 2, "films": 1}, "first", None),
        ({"images": 2}, "other", None),
        ({"new": 2}, "other", None),
        ({"images": 1}, "other", {"name": "model", "type": "COMBO", "link": None, "widget": {"name": "model"}}),
    ],
)
def test_growing_links_that_the_editor_may_lose_are_refused(links: Any, option: str, widget: Any) -> None:
    """The shapes of nodes that lost links in the editor are refused."""
    with pytest.raises(NotConvertible, match="may lose or shift the links into model"):
        growing(links, option, widget)


@pytest.mark.parametrize(
    ("links", "option"), [({"images": 2}, "first"), ({"images": 1, "films": 1}, "first"), ({"images": 1}, "other")]
)
def test_growing_links_that_the_editor_keeps_are_converted(links: Any, option: str) -> None:
    """The shapes of nodes that kept all their links in the editor are converted with all of them."""
    assert sum(isinstance(value, list) for value in growing(links, option).values()) == sum(links.values())


def test_links_into_an_unknown_option_are_refused() -> None:
    """An option that the class lacks is converted with a note, but not if its inputs are linked."""
    draft = Draft().node(1, "DemoSource").node(2, "DemoFormat", ("webm", 5), title="Film")
    note = convert(draft.document(), CATALOGUE).notes[0]
    assert "`format` is set to 'webm', an option that the installed version does not have" in note.message
    assert (note.node_id, note.title) == ("2", "Film")
    error = refusal(draft.link(1, 1, 2, "format.sound", "IMAGE").document())
    assert (error.reason, error.pointer) == ("links into an unknown option", "/nodes/1")


@pytest.mark.parametrize(
    "kind", ["PREVIEW_3D", "CAMERA_INFO_STATE", "COMFY_BRANCH_SELECTOR", "COMFY_DYNAMICGROUP_V3", "WEBCAM"]
)
def test_inputs_that_only_the_editor_fills_in_are_refused(kind: str) -> None:
    """The editor calculates these inputs while the file is open."""
    with pytest.raises(NotConvertible, match="node 1 “Mine”"):
        convert(Draft().node(1, "Scene", (1,), title="Mine").document(), with_class("Scene", {"x": [kind, {}]}))


def test_a_view_without_a_size_is_refused() -> None:
    """The view of a 3D preview depends on its width and height."""
    error = refusal(Draft().node(1, "Save3DAdvanced", ("p", "", 0, 5)).document())
    assert error.reason == "3D view that cannot be calculated"


def test_nodes_are_found_in_the_document() -> None:
    """Each node of the graph has the pointer of the editor's node, inside subgraph definitions too."""
    found, inside = definition(1, {}, {})
    part = seal(found, inside.node(5, "DemoInt", (1,), title="Mine"))
    nodes = convert(Draft().node(2, part["id"]).node(3, "DemoInt", (2,)).document(part), CATALOGUE).document_nodes
    assert {node_id: node.pointer for node_id, node in nodes.items()} == {
        "2:5": "/definitions/subgraphs/0/nodes/0",
        "3": "/nodes/1",
    }
    assert nodes["2:5"].label == "node 5 “Mine” in the subgraph “Part 1”"


def test_notes_say_what_became_of_each_node() -> None:
    """A muted, a bypassed and a virtual node are each in the notes with their title."""
    draft = (
        Draft().node(1, "DemoInt", (1,), mode=2, title="Off").node(2, "DemoInt", (1,), mode=4).node(3, "Note", ("n",))
    )
    draft.node(4, "DemoSource", mode=2).node(5, "SaveImage", ("p",)).link(4, 1, 5, "images", "IMAGE")
    notes = convert(draft.document(), CATALOGUE).notes
    assert [(note.node_id, note.title, note.message) for note in notes] == [
        ("1", "Off", "left out, because it is muted"),
        ("2", "DemoInt", "left out, because it is bypassed"),
        ("4", "DemoSource", "left out, because it is muted"),
    ]


def test_a_link_in_a_circle_ends() -> None:
    """Reroutes that feed each other are refused, and a subgraph inside itself too."""
    ring = Draft().node(3, "Reroute", outputs=["*"]).node(4, "Reroute", outputs=["*"]).node(5, "SaveImage", ("p",))
    ring.link(3, 0, 4, "", "*").link(4, 0, 3, "", "*").link(4, 0, 5, "images", "IMAGE")
    assert refusal(ring.document()).reason == "circle"
    found, inside = definition(1, {}, {})
    itself = seal(found, inside.node(2, found["id"]))
    assert refusal(Draft().node(1, found["id"]).document(itself)).reason == "nested too deeply"


def test_subgraphs_that_multiply_are_refused() -> None:
    """Instances inside instances cannot make more nodes than a limit."""
    definitions: list[dict[str, Any]] = []
    for level in range(12):
        found, inside = definition(level, {}, {})
        for number in range(1, 6):
            inside.node(number, definitions[-1]["id"] if definitions else "DemoInt", (1,))
        definitions.append(seal(found, inside))
    assert refusal(Draft().node(1, definitions[-1]["id"]).document(*definitions)).reason == "too many nodes"


@pytest.mark.parametrize(
    "raw",
    [
        *(None, [], {}, {"nodes": {}}, {"nodes": [1]}, {"nodes": [{"id": 1}]}),
        {"nodes": [], "links": [[1, 2]]},
        {"nodes": [], "links": [[1, 2, "x", 3, 4, "A"]]},
        {"nodes": [{"id": 1, "type": "a"}, {"id": 1, "type": "a"}]},
    ],
)
def test_a_malformed_document_is_refused(raw: Any) -> None:
    """What the editor never saves raises the error of this package."""
    with pytest.raises(BadEditorFile):
        parse_document(raw)


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("{a|b}", "b"),
        ("x {a|b|c} y", "x c y"),
        ("\\{a|b\\}", "{a|b}"),
        ("{a|{b|c}} z", "c z"),
        ("a // comment\nb", "a \nb"),
        ("a /* c */ b", "a  b"),
        ("{a", "a"),
        ("a}", "a}"),
        ("{}", ""),
        ("\\\\{a|b}", "\\\\b"),
        ("{c|a\\|b}", "a|b"),
    ],
)
def test_a_dynamic_prompt_takes_one_option_of_each_choice(text: str, drawn: str) -> None:
    """The last option is drawn here; comments and escapes are removed as the editor does it."""
    assert dynamic_prompt(text, lambda options: options - 1) == drawn


def test_placeholders_are_filled_or_left() -> None:
    """Dates and widgets are filled in, characters that no file name has are replaced, the rest stays."""
    now = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert date_text("yyyy-MM-dd hh:mm:ss d/M yy yyy yyyyy Mon", now) == "2026-03-04 05:06:07 4/3 26 yyy 2026y 3on"
    values = {("A", "b"): 'x/y:"z"', ("N", "n"): 1.0}
    text = fill_placeholders("%A.b% %N.n% %N.m% %date:yy% %date% %% 5%", now, lambda node, widget: values[node, widget])
    assert text == "x_y__z_ 1 %N.m% 26 %date% %% 5%"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (5.0, "5"),
        (True, "true"),
        (None, "null"),
        (1.5, "1.5"),
        (1e21, "1e+21"),
        (1e-7, "1e-7"),
        (1e-5, "0.00001"),
        ({"a": 1}, "[object Object]"),
        ([1, [None, "b"]], "1,,b"),
    ],
)
def test_values_become_text_as_in_the_browser(value: Any, text: str) -> None:
    """Numbers are written as JavaScript writes them."""
    assert script_text(value) == text
