"""Hostile graphs: each is refused with its error in a graph of strangers, and nothing is removed silently."""

import json
from pathlib import Path
from typing import Any

import pytest

from workflows import strangers
from workflows.catalogue import Catalogue
from workflows.errors import UndeclaredInput, UnsafeFileName, ValueNotInList, WorkflowError, WrongInputType
from workflows.execution import TOKEN_INPUT, for_execution
from workflows.graph import Graph, parse_graph
from workflows.library import library
from workflows.policy import DEFAULT, NodePolicy

HERE = Path(__file__).parent
KNOWN = json.loads((HERE / "node_types.json").read_text())

FORMATS = {
    "video/ffmpeg-gif": [
        ["dither", ["bayer", "none"], {"default": "none"}, "[a] palettegen [p]; [b][p] paletteuse=dither=$val"]
    ],
    "video/h264-mp4": [
        ["pix_fmt", ["yuv420p", "yuv420p10le"]],
        ["crf", "INT", {"default": 19, "min": 0, "max": 100}],
        ["save_metadata", "BOOLEAN", {"default": True}],
        ["text", "STRING", {}],
        ["format", ["a"]],
        "odd",
        ["odd"],
    ],
    "image/webp": [["lossless", "BOOLEAN", {"default": True}]],
    "odd": {"target_rate": 8},
}


def described(
    required: dict[str, Any], output: list[Any], *, optional: dict[str, Any] | None = None, pack: str = ""
) -> dict[str, Any]:
    return {
        "input": {"required": required, "optional": optional or {}, "hidden": {"prompt": "PROMPT"}},
        "output": output,
        "output_node": not output,
        "python_module": f"custom_nodes.{pack}" if pack else "nodes",
    }


INFO: dict[str, Any] = {
    "EmptyImage": described({"width": ["INT"]}, ["IMAGE", "MASK"]),
    "PrimitiveString": described({"value": ["STRING"]}, ["STRING"]),
    "PrimitiveInt": described({"value": ["INT"]}, ["INT"]),
    "Anything": described({}, ["*"], pack="Pack"),
    "Chooser": described({}, [["a", "b"]], pack="Pack"),
    "Unsaid": {"input": {"required": {}}},
    "VHS_VideoCombine": described(
        {
            "images": ["IMAGE,LATENT"],
            "filename_prefix": ["STRING", {}],
            "format": [["image/gif", *FORMATS], {"formats": FORMATS}],
        },
        [],
        pack="VHS",
    ),
    "VHS_LoadVideo": described(
        {"video": [["a.mp4"]], "format": [["None", "Wan"], {"formats": {"Wan": {}}}]}, ["IMAGE"]
    ),
    "VHS_LoadImages": described({"directory": [["one", "two"]]}, ["IMAGE"], pack="VHS"),
    "Painter": described({"mask": ["STRING", {"image_upload": True}]}, ["IMAGE"], optional={"image": ["IMAGE"]}),
    "WebcamCapture": described({"image": ["WEBCAM", {}]}, ["IMAGE"]),
    "RecordAudio": described({"audio": ["AUDIO_RECORD", {}]}, ["AUDIO"]),
    "Viewer": described({"state": ["VIEW_STATE", {}], "audioUI": ["AUDIO_UI"]}, ["IMAGE"], pack="Pack"),
    "InputFiles": described({"file": ["COMBO", {"options": ["a.txt", "b.txt"]}]}, ["FILES"]),
    "LoadText": described({"file_path": ["STRING"], "note": ["STRING"], "name": ["STRING"]}, ["STRING"], pack="Pack"),
    "LoadImage": described({"image": [["a.png"], {"image_upload": True}]}, ["IMAGE", "MASK"]),
    "LoraLoader": described({"lora_name": [["a.safetensors"]], "file": [["b.safetensors"]]}, ["MODEL"]),
    "CustomCombo": described({"choice": ["COMBO", {"options": []}]}, ["STRING"]),
    "LoadLatent": described({"latent": [[]]}, ["LATENT"]),
    "Show3D": described({"model_file": ["STRING,FILE_3D"]}, []),
    "Load3D": described({}, ["FILE_3D"]),
    "SaveImage": described({"images": ["IMAGE"], "filename_prefix": ["STRING"]}, []),
    "ImageBatchMulti": described({"inputcount": ["INT"], "image_1": ["IMAGE"], "image_2": ["IMAGE"]}, ["IMAGE"]),
    "JoinStringMulti": described({"string_1": ["STRING"]}, ["STRING"], pack="KJ"),
    "Any Switch (rgthree)": described({}, ["*"], pack="rgthree"),
    "Power Lora Loader (rgthree)": described({}, ["MODEL"], pack="rgthree"),
    "Grows": described({"images": ["COMFY_AUTOGROW_V3", {}], "mode": ["COMFY_DYNAMICCOMBO_V3", {}]}, [], pack="Pack"),
}
CATALOGUE = Catalogue(INFO)
SOURCES: dict[str, Any] = {
    "picture": {"class_type": "EmptyImage", "inputs": {"width": 8}},
    "text": {"class_type": "PrimitiveString", "inputs": {"value": "../../x"}},
    "number": {"class_type": "PrimitiveInt", "inputs": {"value": 7}},
    "any": {"class_type": "Anything", "inputs": {}},
    "choice": {"class_type": "Chooser", "inputs": {}},
    "unsaid": {"class_type": "Unsaid", "inputs": {}},
    "shape": {"class_type": "Load3D", "inputs": {}},
}


def graph(class_type: str, **inputs: Any) -> Graph:
    return parse_graph({**SOURCES, "7": {"class_type": class_type, "inputs": inputs}})


def check(submitted: Graph) -> None:
    """Check a graph of strangers as the API does."""
    NodePolicy.parse(DEFAULT).check(submitted, "strangers")
    strangers.check(submitted, CATALOGUE)


def executed(submitted: Graph) -> dict[str, Any]:
    inputs: dict[str, Any] = for_execution(submitted, CATALOGUE, "t")["7"]["inputs"]
    return {name: value for name, value in inputs.items() if name != TOKEN_INPUT}


def refusal(submitted: Graph) -> WorkflowError:
    with pytest.raises(WorkflowError) as refused:
        check(submitted)
    assert "COMFYUI_MODAL_GRAPHS=own" in refused.value.hint
    return refused.value


FILTER = "none;movie=filename=/proc/1/environ"
FROM_TEXT = [["text", 0], ["any", 0], ["choice", 0], ["unsaid", 0]]


@pytest.mark.parametrize(
    ("chosen", "widget", "value"),
    [
        ("video/ffmpeg-gif", "dither", FILTER),
        ("video/ffmpeg-gif", "dither", "evil.safetensors;movie=x"),
        ("video/ffmpeg-gif", "dither", {"__value__": FILTER}),
        ("video/ffmpeg-gif", "dither", {"a": "bayer"}),
        ("video/ffmpeg-gif", "dither", None),
        ({"__value__": "video/ffmpeg-gif"}, "dither", FILTER),
        ("video/h264-mp4", "pix_fmt", "yuv420p -i /etc/passwd"),
        ("video/h264-mp4", "crf", "1 -i /etc/passwd"),
        ("video/h264-mp4", "crf", "nan"),
        ("video/h264-mp4", "crf", " 19 "),
        ("video/h264-mp4", "save_metadata", "no"),
        ("video/h264-mp4", "pix_fmt", {"__value__": "yuv420p"}),
        ("video/h264-mp4", "crf", {"__value__": "x"}),
        *(("video/ffmpeg-gif", "dither", link) for link in (*FROM_TEXT, ["number", 0], ["picture", 0], ["text", 9])),
        *(("video/h264-mp4", "crf", link) for link in (*FROM_TEXT, ["picture", 0], ["number", 0, 0], [])),
    ],
)
def test_an_option_of_a_format_is_one_of_its_choices_or_a_number(chosen: Any, widget: str, value: Any) -> None:
    """An option of a format must be one of its choices or a number, because ComfyUI neither converts nor unwraps it."""
    refused = refusal(graph("VHS_VideoCombine", images=["picture", 0], format=chosen, **{widget: value}))
    assert isinstance(refused, ValueNotInList | WrongInputType)
    assert refused.pointer == f"/7/inputs/{widget}"


@pytest.mark.parametrize(
    "value", ["video/../../../input/mine", "video/none", {"__value__": "video/../x"}, 7, *FROM_TEXT, ["number", 0]]
)
@pytest.mark.parametrize("class_type", ["VHS_VideoCombine", "VHS_LoadVideo"])
def test_a_format_is_one_of_the_choices(class_type: str, value: Any) -> None:
    """A format must be one of the choices, because it names a file with ffmpeg options and ComfyUI accepts an
    untyped link."""
    assert isinstance(refusal(graph(class_type, format=value)), ValueNotInList | WrongInputType | UnsafeFileName)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dither", "bayer"),
        ("text", "-i /etc/passwd"),
        ("manual_format_widgets", {"dither": FILTER}),
        ("manual_format_widgets", ["any", 0]),
        ("manual_format_widgets", ["picture", 0]),
        ("has_alpha", True),
        ("crf.x", 1),
        ("prompt", ["picture", 0]),
        ("extra_pnginfo", {"a": 1}),
        ("unheard_of", ["text", 0]),
        ("unheard_of", ["number", 0]),
        ("unheard_of", ["unsaid", 0]),
        (TOKEN_INPUT, "mine"),
    ],
)
def test_an_undeclared_input_is_refused(name: str, value: Any) -> None:
    """Options of another format, free text and other undeclared inputs of a class are refused."""
    refused = refusal(graph("VHS_VideoCombine", images=["picture", 0], format="video/h264-mp4", **{name: value}))
    assert isinstance(refused, UndeclaredInput)
    assert refused.pointer == f"/7/inputs/{name}"


@pytest.mark.parametrize(
    ("class_type", "name", "value"),
    [
        ("LoadImage", "audioUI", "/api/view?filename=a.flac&type=input"),
        ("LoadImage", "upload", "image"),
        ("SaveImage", "unheard_of", "free text"),
        ("VHS_VideoCombine", "videopreview", {"params": {"fullpath": "/srv/x.mp4"}}),
        ("VHS_LoadVideo", "choose video to upload", "image"),
    ],
)
def test_inputs_that_reach_no_node_are_accepted(class_type: str, name: str, value: Any) -> None:
    """Inputs for the editor's players and buttons, and literals that ComfyUI does not pass on, are accepted."""
    check(graph(class_type, **{name: value}))


def test_an_undeclared_literal_is_accepted_for_a_class_with_closed_inputs() -> None:
    """An undeclared literal of a custom class is accepted once the engine has published that its inputs are closed."""
    known = {**INFO, "VHS_VideoCombine": INFO["VHS_VideoCombine"] | {"open_inputs": True}}
    strangers.check(graph("LoadText", unheard_of="x"), Catalogue(known))
    for class_type, info in (("LoadText", INFO), ("VHS_VideoCombine", known)):
        with pytest.raises(UndeclaredInput):
            strangers.check(graph(class_type, unheard_of="x"), Catalogue(info))


def test_a_node_cannot_act_for_another() -> None:
    """A submitted `override_display_id` is refused, and a harmless `is_changed` is accepted."""
    node = {"class_type": "EmptyImage", "inputs": {"width": 8}, "is_changed": ["a"], "_meta": {"title": "x"}}
    check(parse_graph({"7": node}))
    assert refusal(parse_graph({"7": node | {"override_display_id": "9"}})).pointer == "/7/override_display_id"


def test_a_picture_in_base64_is_not_a_path() -> None:
    """A JPEG in base64, which starts with `/9j/`, is not refused as a path."""
    check(graph("easy loadImageBase64", base64_data="/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIB=="))
    refusal(graph("easy loadImageBase64", base64_data="/9j/../etc/passwd"))


def test_the_options_of_the_chosen_format_are_accepted() -> None:
    """Valid options of the chosen format are accepted and reach the engine unchanged."""
    given = {"pix_fmt": "yuv420p", "crf": 19, "save_metadata": True, "format": "video/h264-mp4"}
    submitted = graph("VHS_VideoCombine", **given)
    check(submitted)
    assert executed(submitted) == given
    linked = graph("VHS_VideoCombine", format="video/h264-mp4", crf=["number", 0])
    check(linked)
    assert executed(linked)["crf"] == ["number", 0]


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("ImageBatchMulti", {"inputcount": 3, "image_1": ["picture", 0], "image_3": ["picture", 0]}),
        ("JoinStringMulti", {"string_1": "a", "string_2": "b", "string_10": ["text", 0]}),
        ("Any Switch (rgthree)", {"any_01": ["text", 0], "any_02": ["any", 0]}),
        ("Power Lora Loader (rgthree)", {"lora_1": {"on": True, "lora": "a.safetensors", "strength": 1}}),
        ("Grows", {"images.image0": ["picture", 0], "mode": "x", "mode.size": 7}),
        ("VHS_VideoCombine", {"format": "image/gif", "latents": ["picture", 0]}),
        ("Unheard of", {"anything": "goes", "linked": ["any", 0]}),
    ],
)
def test_numbered_inputs_and_parts_reach_the_engine(class_type: str, inputs: dict[str, Any]) -> None:
    """Inputs that packs accept without declaring them, and all inputs of an unknown class, reach the engine."""
    submitted = graph(class_type, **inputs)
    check(submitted)
    assert executed(submitted) == inputs


def test_the_shipped_workflows_are_accepted() -> None:
    """The shipped workflows are accepted with the engine's declarations of their classes."""
    catalogue = Catalogue({name: about for pack in KNOWN.values() for name, about in pack.items()})
    for workflow in library().values():
        strangers.check(parse_graph(workflow.graph), catalogue)


LEADS_AWAY = [
    "../secret.png",
    '"/proc/1/environ',
    '/proc/1/environ"',
    ' "/srv/other" ',
    "'/srv/other'",
    '"sub [output]"',
    'sub [output]"',
    "x.png [temp] ",
    ".. [input]",
    "..x[input]",
    "..[input]",
    '".." [input]',
    "../x [input]",
    ".. [input] [input]",
    "x [output][input]",
    "a/..",
    {"__value__": "../x.png"},
    {"__value__": '"/srv/other'},
    {"__value__": ["../x.png", 0]},
    {"filename": "../x.png"},
    {"list": [{"deep": "/etc/x"}]},
]


@pytest.mark.parametrize("value", LEADS_AWAY, ids=str)
@pytest.mark.parametrize(
    ("class_type", "field"),
    [
        ("LoadImage", "image"),
        ("VHS_LoadAudioUpload", "audio"),
        ("VHS_LoadImages", "directory"),
        ("WebcamCapture", "image"),
        ("RecordAudio", "audio"),
        ("Viewer", "state"),
        ("Painter", "mask"),
        ("InputFiles", "file"),
        ("AnyPack", "pose_file_path"),
        ("AnyPack", "folder_name"),
        ("AnyPack", "mode.directory"),
        ("AnyPack", "filename"),
    ],
)
def test_a_name_cannot_leave_its_folder_in_any_notation(class_type: str, field: str, value: Any) -> None:
    """Quotes, blanks, suffixes and wrappings are removed before a name is checked, in every class."""
    with pytest.raises(UnsafeFileName) as refused:
        check(graph(class_type, **{field: value}))
    assert refused.value.pointer == f"/7/inputs/{field}"


@pytest.mark.parametrize("value", ["x.png [input] [input]", "x.png [input][input]", "x[input]" * 130_000], ids=len)
def test_a_name_may_have_one_suffix_only(value: str) -> None:
    """A name with several folder suffixes is refused in linear time, because removing them one by one took minutes."""
    with pytest.raises(UnsafeFileName, match="several marks"):
        check(graph("LoadImage", image=value))


@pytest.mark.parametrize(
    ("class_type", "field"),
    [
        ("LoadImage", "image"),
        ("VHS_LoadVideo", "video"),
        ("VHS_LoadImages", "directory"),
        ("Painter", "mask"),
        ("WebcamCapture", "image"),
        ("RecordAudio", "audio"),
        ("InputFiles", "file"),
        ("LoadText", "file_path"),
        ("LoadLatent", "latent"),
        ("Show3D", "model_file"),
    ],
)
@pytest.mark.parametrize("link", FROM_TEXT)
def test_a_link_cannot_name_a_file(class_type: str, field: str, link: list[Any]) -> None:
    """A link cannot provide a file name, because the value from another node is unchecked."""
    with pytest.raises(UnsafeFileName, match="is linked"):
        strangers.check(graph(class_type, **{field: link}), CATALOGUE)


@pytest.mark.parametrize(
    ("class_type", "field", "value"),
    [
        ("Painter", "image", ["picture", 0]),
        ("Show3D", "model_file", ["shape", 0]),
        ("Show3D", "model_file", "3d/x.glb"),
        ("LoraLoader", "lora_name", ["choice", 0]),
        ("LoraLoader", "file", ["choice", 0]),
        ("LoadText", "note", ["text", 0]),
        ("LoadImage", "image", "a (1) [x] 'y'.png [input]"),
        ("LoadImage", "image", "a...png"),
        ("SaveImage", "filename_prefix", ["text", 0]),
        ("SaveImage", "filename_prefix", "../x"),
        ("InputFiles", "file", "a.txt"),
        ("RecordAudio", "audio", "recorded.wav"),
        ("Viewer", "state", {"camera": [0, 1], "image": "a.png"}),
        ("Viewer", "state", ["any", 0]),
        ("Viewer", "audioUI", "/api/view?filename=a.wav"),
        ("CustomCombo", "choice", "/imagine ../ anything"),
        ("CustomCombo", "choice", ["text", 0]),
    ],
)
def test_inputs_that_name_no_file_may_be_linked(class_type: str, field: str, value: Any) -> None:
    """Inputs that name no file may be linked, and ordinary names and file name prefixes are accepted."""
    check(graph(class_type, **{field: value}))


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("SaveImageTextDataSetToFolder", {"folder_name": "x"}),
        ("SaveImageDataSetToFolder", {"folder_name": "x"}),
        ("SaveTrainingDataset", {"folder_name": "x"}),
        ("LoadTrainingDataset", {"folder_name": ["text", 0]}),
        ("CameraPoseVisualizer", {"pose_file_path": "x"}),
        ("PlaySoundKJ", {"audio_path": "http://127.0.0.1/"}),
        ("CreateAudioMask", {"audio_path": "x.wav"}),
        ("VisualizeCUDAMemoryHistory", {"snapshot_path": ["text", 0]}),
        ("EndRecordCUDAMemoryHistory", {"output_path": "x"}),
        ("WebcamCaptureCV2", {}),
    ],
)
def test_classes_that_take_any_path_are_denied(class_type: str, inputs: dict[str, Any]) -> None:
    """Classes of ComfyUI and of the image's packs that accept any path are denied to strangers and allowed in own
    graphs."""
    with pytest.raises(WorkflowError, match=r"reads or writes any path|camera"):
        check(graph(class_type, **inputs))
    NodePolicy.parse(DEFAULT).check(graph(class_type, **inputs), "own")
