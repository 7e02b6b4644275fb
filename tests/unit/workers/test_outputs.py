"""Outputs of nodes: every file is fetched, every value is kept, and no name or value can break a record."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.comfy.engine import FileRef
from workers.outputs.names import LONGEST_BYTES, DistinctNames, safe_filename, safe_folder
from workers.outputs.payload import (
    LONGEST_NAME,
    MAX_LEVELS,
    MAX_NAMES,
    PIECE_CHARACTERS,
    TOO_DEEP,
    InlineOutput,
    names_in,
    outputs_of,
    strict_json,
    strict_text,
    type_of,
)

PNG = {"filename": "a_00001_.png", "subfolder": "x", "type": "output"}
REF = FileRef("a_00001_.png", "x", "output")


@pytest.mark.parametrize("key", ["images", "gifs", "audio", "3d", "latents", "whatever"])
def test_a_file_is_a_file_under_any_key(key: str) -> None:
    """A file is an output under any key, because custom nodes choose their own keys."""
    assert list(outputs_of("7", {key: [PNG, PNG]})) == [REF, REF]


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)


def body_of(output: object) -> bytes:
    assert isinstance(output, InlineOutput)
    return b"".join(output.pieces())


def test_a_flag_next_to_files_is_not_an_output() -> None:
    """`animated` describes the files next to it and is not an output."""
    assert list(outputs_of("7", {"images": [PNG], "animated": [True]})) == [REF]


def test_texts_become_files() -> None:
    """A text becomes a file with the name of the first version, and several texts are numbered."""
    (one,) = outputs_of("7", {"text": ["hello"]})
    assert isinstance(one, InlineOutput)
    assert (one.filename, body_of(one)) == ("text_output_7.txt", b"hello")
    assert [
        output.filename for output in outputs_of("7", {"text": ["a", "b"]}) if isinstance(output, InlineOutput)
    ] == [
        "text_output_7_1.txt",
        "text_output_7_2.txt",
    ]


@pytest.mark.parametrize(
    "value",
    [
        3,
        "text",
        [1, {"a": None}],
        [{"filename": "model.safetensors"}],
        [{"filename": "x.png", "subfolder": "", "type": "elsewhere"}],
    ],
)
def test_every_other_value_becomes_json(value: Any) -> None:
    """Any other value becomes a JSON output, including a `filename` without a type."""
    (output,) = outputs_of("7", {"result": value})
    assert isinstance(output, InlineOutput)
    assert output.filename == "ui_output_7_result.json"
    assert json.loads(body_of(output)) == (value if isinstance(value, list) else [value])


GLB = FileRef("x.glb", "3d", "output")
FILES = {"3d/x.glb": GLB, "a_00001_.png": FileRef("a_00001_.png", "", "temp")}


@pytest.mark.parametrize(
    ("ui", "files", "values"),
    [
        ({"result": ["3d/x.glb", None, []]}, [GLB], []),
        ({"result": ["3d/x.glb", {"fov": 35}, ""]}, [GLB], [[{"fov": 35}, ""]]),
        ({"result": list("3d/x.glb")}, [GLB], []),
        ({"result": "3d/x.glb"}, [GLB], []),
        ({"result": [["3d/x.glb", "3d/x.glb"]]}, [GLB], [[["3d/x.glb", "3d/x.glb"]]]),
        ({"result": [{"filename": "3d/x.glb"}]}, [GLB], [[{"filename": "3d/x.glb"}]]),
        ({"result": ["3d/y.glb", "3d/x.glb"]}, [GLB], [["3d/y.glb"]]),
        ({"3d": [{"filename": "x.glb", "subfolder": "3d", "type": "output"}], "result": ["3d/x.glb"]}, [GLB], []),
        ({"images": [{**PNG, "workflow": "3d/x.glb"}]}, [REF], []),
        ({"a": ["3d/x.glb"], "animated": [True]}, [GLB], []),
        ({"count": [3], "names": ["no file"]}, [], [[3], ["no file"]]),
    ],
)
def test_a_string_that_names_a_file_is_that_file(ui: dict[str, Any], files: list[FileRef], values: list[Any]) -> None:
    """A string that names a file becomes that file once per node, and the rest of the payload stays a value."""
    outputs = list(outputs_of("7", ui, {name: ref for name, ref in FILES.items() if name in names_in(ui)}))
    assert [output for output in outputs if isinstance(output, FileRef)] == files
    assert [json.loads(body_of(output)) for output in outputs if isinstance(output, InlineOutput)] == values


def test_a_text_that_names_a_file_is_also_kept() -> None:
    """A text that names a file is kept as a text next to the file."""
    file, text = outputs_of("7", {"text": ["3d/x.glb"]}, FILES)
    assert file == GLB
    assert isinstance(text, InlineOutput)
    assert (text.filename, body_of(text)) == ("text_output_7.txt", b"3d/x.glb")


def test_the_number_of_file_look_ups_is_bounded() -> None:
    """Only a bounded number of strings is looked up as file names."""
    assert names_in({"text": [f"{number}.png" for number in range(MAX_NAMES + 5)]}) == [
        f"{number}.png" for number in range(MAX_NAMES)
    ]
    assert names_in({"text": ["", "  ", "x" * (LONGEST_NAME + 1), 3, None]}) == []


def test_spellings_of_one_path_are_one_file() -> None:
    """Different spellings of one path are one file, which is stored once."""
    written = [("x.glb", "3d"), ("x.glb", "3d/"), ("3d/x.glb", ""), ("x.glb", "./3d"), ("x.glb", "a\\..\\3d")]
    ui = {"3d": [{"filename": name, "subfolder": folder, "type": "output"} for name, folder in written]}
    assert {output for output in outputs_of("7", ui) if isinstance(output, FileRef)} == {GLB}


def test_output_names_are_unique() -> None:
    """Output names are unique regardless of case, and truncated names stay unique."""
    names = DistinctNames()
    long = "x" * 300 + ".png"
    taken = [
        names.take(name, folder) for name, folder in [("a.png", "")] * 3 + [("A.png", "b/c")] * 2 + [(long, "")] * 2
    ]
    assert taken[:5] == ["a.png", "2_a.png", "3_a.png", "b_c_A.png", "4_A.png"]
    assert len(set(taken)) == len(taken)
    assert all(len(name.encode()) <= LONGEST_BYTES and name.endswith(".png") for name in taken)


@pytest.mark.parametrize(
    ("folder", "safe"),
    [
        *(("", ""), ("a/b", "a/b"), ("../a", "file/a"), ("/home/me", ""), ("a\x00/\ud800", "a_/_")),
        ("a" * 100 + "/b" * 1_000, "a" * 100 + "/b" * 77),
        ("/".join(["a" * 100] * 40), "/".join(["a" * 100] * 2)),
    ],
)
def test_folders_are_made_safe(folder: str, safe: str) -> None:
    """A folder is made of safe names, contains no host path and has a bounded length."""
    assert safe_folder(folder) == safe


def test_nan_and_lone_surrogates_are_replaced() -> None:
    """NaN, infinities and lone surrogates are replaced, because strict JSON cannot contain them."""
    assert strict_json({"a\ud800": [float("nan"), float("inf"), "b\udfff", 1.5]}) == {"a?": [None, None, "b?", 1.5]}
    assert strict_text("ok ü") == "ok ü"


def test_values_that_are_nested_too_deeply_are_cut() -> None:
    """Lists and objects of a node's result beyond the allowed levels are replaced by a text that says so."""
    deep: Any = "bottom"
    for level in range(900):
        deep = [deep] if level % 2 else {"in": deep}
    (output,) = outputs_of("7", {"tree": deep})
    body = body_of(output)
    assert (body.count(b"["), body.count(TOO_DEEP.encode())) == (MAX_LEVELS // 2, 1)


def test_the_json_of_a_deep_list_is_as_long_as_its_values() -> None:
    """A list's depth adds nothing to its values, and the JSON comes in pieces of a bounded size."""
    numbers: Any = [0] * 50_000
    deep = numbers
    for _ in range(MAX_LEVELS - 2):
        deep = [deep]
    (output,) = outputs_of("7", {"tree": [deep, "é\n" * 200_000]})
    assert isinstance(output, InlineOutput)
    pieces = list(output.pieces())
    assert len(b"".join(pieces)) < 3 * len(numbers) + 4 * 200_000 + 1_000
    assert max(map(len, pieces)) < 4 * PIECE_CHARACTERS


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), _containers))
def test_the_pieces_of_a_value_are_its_strict_json(value: Any) -> None:
    """The pieces are what Python's encoder makes of the value, with NaN and lone surrogates replaced."""
    output = InlineOutput("a.json", "text", "application/json", [value])
    assert body_of(output).decode() == json.dumps(strict_json([value]), ensure_ascii=False)


@pytest.mark.parametrize(
    ("filename", "content_type", "kind"),
    [
        ("a.mp4", "video/mp4", "video"),
        ("a.PNG", "image/png", "image"),
        ("a.glb", "model/gltf-binary", "model"),
        ("a.latent", "application/octet-stream", "file"),
        ("noextension", "audio/mpeg", "audio"),
        ("a.json", "application/json", "text"),
    ],
)
def test_the_type_follows_the_extension_then_the_content(filename: str, content_type: str, kind: str) -> None:
    """An output's type follows its extension, then its content type, and not the node's key."""
    assert type_of(filename, content_type) == kind


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("photo.png", "photo.png"),
        ("über 日本.png", "über 日本.png"),
        ("a\x00b\u202e.png", "a_b_.png"),
        ("\ufffe\uffff.png", "__.png"),
        ("..", "file"),
        ("", "file"),
        ("x" * 300 + ".png", "x" * (LONGEST_BYTES - 4) + ".png"),
    ],
)
def test_names_are_made_safe(name: str, safe: str) -> None:
    """Unsafe characters of a file name are replaced, and letters of any script are kept."""
    assert safe_filename(name) == safe


@given(st.text(max_size=400))
def test_any_name_is_made_safe(name: str) -> None:
    """Any name becomes one key segment that is not empty, `.` or `..` and that fits its limit in UTF-8."""
    safe = safe_filename(name)
    assert safe not in ("", ".", "..")
    assert "/" not in safe
    assert len(safe.encode()) <= LONGEST_BYTES


payloads = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.just(PNG),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["filename", "subfolder", "type", "x"]), inner, max_size=3)
    ),
)


@given(st.dictionaries(st.sampled_from(["images", "text", "result", "animated"]), payloads, max_size=3))
def test_any_payload_is_split_into_outputs(ui: dict[str, Any]) -> None:
    """Any payload is split without an error, and its inline bodies are strict JSON or text."""
    for output in outputs_of("7", ui, dict.fromkeys(names_in(ui)[::2], GLB)):
        if isinstance(output, InlineOutput) and output.content_type == "application/json":
            json.loads(body_of(output).decode(), parse_constant=pytest.fail)
