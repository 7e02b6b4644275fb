"""The faults that a catalogue finds with the engine's object_info, and the checks that are left to the engine."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from workflows.catalogue import MOST_FAULTS, Catalogue
from workflows.errors import WorkflowError
from workflows.graph import parse_graph
from workflows.node_errors import LONGEST_DEPENDENTS, MOST_DEPENDENTS
from workflows.report import Report

PROMPTS = Path(__file__).parent / "prompts"
STAGED = frozenset({"rec_in.png", "rec_corrupt.png", "rec_tone.wav"})
"""The files that the recorder uploaded before it posted its prompts."""
REPORTED_DIFFERENTLY = {
    "link to a node that does not exist",
    "link to a slot that does not exist",
    "node without inputs",
    "s24_cycle",
}
"""Cases that ComfyUI reports as exceptions with a traceback, or as an error of a whole cycle."""


def recordings() -> list[Any]:
    found = []
    for version in ("0.3.64", "0.33.0"):
        recorded = json.loads((PROMPTS / f"{version}.json").read_text())
        for number, case in enumerate(recorded["cases"]):
            name = f"{version}-{number}-{case['scenario']}"
            found.append(pytest.param(recorded["object_info"], case, id=name))
    return found


def format_errors(errors: dict[str, Any]) -> dict[str, Any]:
    """Return node_errors with the errors of each node sorted, because ComfyUI iterates over a set."""
    return {
        node_id: (sorted(json.dumps(error, sort_keys=True) for error in about["errors"]), about["dependent_outputs"])
        for node_id, about in errors.items()
    }


@pytest.mark.parametrize(("object_info", "case"), recordings())
def test_the_report_matches_the_recorded_engine(object_info: dict[str, Any], case: dict[str, Any]) -> None:
    """Two recorded versions of ComfyUI and the catalogue accept the same prompts and report the same node errors."""
    staged = None if case["scenario"] == "s60_upload" else STAGED  # this scenario uploads files with random names
    try:
        report = Catalogue(object_info).check(parse_graph(case["prompt"]), staged)
    except WorkflowError as error:
        report = Report((error,))
    assert (not report.faults) is case["accepted"]
    assert report.is_refusal is not (case["accepted"] or case["note"].startswith("one good output, one bad: 200"))
    if not {case["note"], case["scenario"]} & REPORTED_DIFFERENTLY:
        assert format_errors(dict(report.node_errors)) == format_errors(case["node_errors"])


MODELS = ["a.safetensors", "sub/b.safetensors"]
UPLOADS = {
    "image": [["old.png"], {"image_upload": True}],
    "mask": ["STRING", {"image_upload": True}],
    "model": [["none"], {"file_upload": True}],
}
INFO: dict[str, Any] = {
    "Number": {
        "input": {
            "required": {"whole": ["INT", {"min": 0, "max": 9}], "part": ["FLOAT", {"min": 0.5}]},
            "optional": {
                "words": ["STRING"],
                "yes": ["BOOLEAN"],
                "old": [["x", "y"]],
                "mixed": ["INT,FLOAT", {"min": 1}],
            },
        },
        "output": ["INT", "INT,FLOAT", "*", ["x", "y"]],
        "output_node": True,
        "python_module": "nodes",
    },
    "New": {
        "input": {
            "optional": {
                "one": ["COMBO", {"options": ["x", "y"]}],
                "many": ["COMBO", {"options": ["x", "y"], "multiselect": True}],
                "remote": ["COMBO", {"remote": {"route": "/x"}, "options": ["x"]}],
                "unlisted": ["COMBO", {}],
            },
            "required": {
                "grown": ["COMFY_AUTOGROW_V3", {"template": {"min": 0}}],
                "chosen": ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "x"}]}],
            },
        },
        "output": ["COMBO", "COMFY_MATCHTYPE_V3"],
        "output_node": True,
    },
    "Loader": {
        "input": {
            "required": {"name": [MODELS]},
            "optional": {"vae": [["pixel_space"]], "none": [[]], **UPLOADS},
        },
        "output": ["MODEL"],
        "output_node": True,
    },
    "Grows": {
        "input": {"required": {"images": ["COMFY_AUTOGROW_V3", {"template": {"min": 2}}]}},
        "output": [],
        "output_node": True,
    },
}
INFO["Custom"] = INFO["Number"] | {"python_module": "custom_nodes.Pack"}
INFO["CustomLoader"] = INFO["Loader"] | {"python_module": "custom_nodes.Pack"}
VALID: dict[str, dict[str, Any]] = {
    "Number": {"whole": 1, "part": 1.0},
    "New": {"chosen": "x"},
    "Loader": {"name": "a.safetensors"},
    "Grows": {"images.image0": ["n", 0]},
}


def codes_of(class_type: str, catalogue: Catalogue | None = None, **inputs: Any) -> list[str]:
    """Return the codes of the faults of one node next to `n`, a Number, and `w`, a New."""
    nodes = {
        "n": {"class_type": "Number", "inputs": VALID["Number"]},
        "w": {"class_type": "New", "inputs": VALID["New"]},
        "1": {"class_type": class_type, "inputs": VALID[class_type.removeprefix("Custom") or "Number"] | inputs},
    }
    report = (catalogue or Catalogue(INFO)).check(
        parse_graph(nodes), frozenset({"brought.png", "pasted/image (3).png"})
    )
    return [fault.code for fault in report.faults]


@pytest.mark.parametrize(
    ("class_type", "field", "value", "codes"),
    [
        ("Number", "whole", "5", []),
        ("Number", "whole", " 7 ", []),
        ("Number", "whole", 8.9, []),
        ("Number", "whole", True, []),
        ("Number", "whole", "5.5", ["wrong-input-type"]),
        ("Number", "whole", None, ["wrong-input-type"]),
        ("Number", "whole", float("inf"), ["wrong-input-type"]),
        ("Number", "whole", float("nan"), ["wrong-input-type"]),
        ("Number", "whole", -0.9, []),
        ("Number", "whole", -1, ["value-out-of-range"]),
        ("Number", "whole", "10", ["value-out-of-range"]),
        ("Number", "part", "0.25", ["value-out-of-range"]),
        ("Number", "part", float("nan"), []),
        ("Number", "part", {"__value__": 2}, []),
        ("Number", "part", [1], ["wrong-input-type"]),
        ("Number", "part", [1, 2], ["dangling-link"]),
        ("Number", "part", ["n", 0.0], ["dangling-link"]),
        ("Number", "part", ["n", 4], ["dangling-link"]),
        ("Number", "unheard_of", ["n", 4], []),
        ("Number", "part", ["n", 0], ["link-type-mismatch"]),
        ("Number", "part", ["n", 1], []),
        ("Number", "part", ["n", 2], []),
        ("Number", "part", ["w", 1], []),
        ("Number", "part", ["n", 3], ["link-type-mismatch"]),
        ("Number", "mixed", ["n", 0], []),
        ("Number", "mixed", "a", ["wrong-input-type"]),
        ("Number", "old", ["n", 3], []),
        ("Number", "old", ["w", 0], ["link-type-mismatch"]),
        ("Number", "old", "z", ["value-not-in-list"]),
        ("Number", "old", ["x"], ["wrong-input-type"]),
        ("Number", "words", {"any": "thing"}, []),
        ("Number", "yes", "no", []),
        ("Number", "unheard_of", "anything", []),
        ("New", "one", "z", ["value-not-in-list"]),
        ("New", "one", ["n", 3], []),
        ("New", "many", {"__value__": ["x", "y"]}, []),
        ("New", "many", {"__value__": ["x", "z"]}, ["value-not-in-list"]),
        ("New", "remote", "z", []),
        ("New", "unlisted", "z", []),
        ("New", "chosen", "z", []),
        ("New", "grown.a", ["n", 0], []),
        ("New", "grown.a", ["n", 9], ["dangling-link"]),
        ("Loader", "name", "sub/b.safetensors", []),
        ("Loader", "name", "b.safetensors", ["missing-model"]),
        ("Loader", "name", "anything", ["missing-model"]),
        ("Loader", "vae", "wan.safetensors", ["missing-model"]),
        ("Loader", "none", "wan.gguf", ["missing-model"]),
        ("Loader", "none", "a_folder", ["value-not-in-list"]),
        ("Loader", "none", "brought.png", []),
        ("Loader", "none", "new.png", ["missing-medium"]),
        ("Loader", "image", "brought.png", []),
        ("Loader", "image", "old.png", []),
        ("Loader", "image", "new.png", ["missing-medium"]),
        ("Loader", "image", 7, ["missing-medium"]),
        ("Loader", "image", "pasted/image (3).png", []),
        ("Loader", "image", "pasted//./image (3).png", []),
        ("Loader", "image", "brought.png [input]", []),
        ("Loader", "image", "sub/new.png", ["missing-medium"]),
        ("Loader", "image", "brought.png [output]", ["missing-medium"]),
        ("Loader", "image", "new.png [temp]", ["missing-medium"]),
        ("Loader", "image", "../brought.png", ["missing-medium"]),
        ("Loader", "mask", "", []),
        ("Loader", "mask", "painted.png", ["missing-medium"]),
        ("Loader", "model", "", []),
        ("Loader", "model", "3d/x.glb", ["missing-medium"]),
    ],
)
def test_an_input_is_checked_against_its_declaration(class_type: str, field: str, value: Any, codes: list[str]) -> None:
    """Conversions, ranges, choices, files and links are checked by ComfyUI's rules."""
    assert codes_of(class_type, **{field: value}) == codes


@pytest.mark.parametrize(
    ("field", "value", "codes"),
    [
        ("whole", 99, []),
        ("old", "z", []),
        ("part", ["n", 0], []),
        ("whole", "a", ["wrong-input-type"]),
        ("part", ["n", 4], ["dangling-link"]),
    ],
)
def test_checks_that_a_custom_node_may_replace_are_left_to_it(field: str, value: Any, codes: list[str]) -> None:
    """A custom node may replace the checks of ranges, choices and link types, but not of conversions and slots."""
    assert codes_of("Custom", **{field: value}) == codes


def knowing(class_type: str, unchecked: list[str], *, files_are_known: bool = True) -> Catalogue:
    """Return the catalogue of an engine that publishes which inputs ComfyUI leaves to this class."""
    info = {**INFO, class_type: INFO[class_type] | {"unchecked_inputs": unchecked}}
    return Catalogue(info, files_are_known=files_are_known)


@pytest.mark.parametrize(
    ("class_type", "field", "value", "code"),
    [
        ("Custom", "whole", 99, "value-out-of-range"),
        ("Custom", "old", "z", "value-not-in-list"),
        ("New", "one", "z", "value-not-in-list"),
        ("CustomLoader", "name", "b.safetensors", "missing-model"),
        ("CustomLoader", "vae", "z", "value-not-in-list"),
        ("CustomLoader", "none", "z", "value-not-in-list"),
        ("CustomLoader", "none", "new.png", "missing-medium"),
    ],
)
def test_inputs_that_the_engine_compares_are_checked(class_type: str, field: str, value: Any, code: str) -> None:
    """Inputs that the engine publishes as compared are checked for custom nodes too, and the others are left to the
    class."""
    assert codes_of(class_type, knowing(class_type, []), **{field: value}) == [code]
    assert codes_of(class_type, knowing(class_type, [field]), **{field: value}) == []
    assert codes_of(class_type, knowing(class_type, ["*"]), **{field: value}) == []


def test_choices_of_a_custom_node_expire_with_the_lists_of_files() -> None:
    """Choices of a custom node may be folders, so they are checked only while the lists of files are current."""
    catalogue = knowing("Custom", [], files_are_known=False)
    assert codes_of("Custom", catalogue, old="z") == []
    assert codes_of("Custom", catalogue, whole=99) == ["value-out-of-range"]


@pytest.mark.parametrize(
    ("value", "codes"),
    [
        ("new.png", ["missing-medium"]),
        ("sub/new.png [input]", ["missing-medium"]),
        ("brought.png", []),
        ("none", []),
        ("https://example.com/a", []),
    ],
)
def test_a_custom_loader_may_accept_more_than_files(value: str, codes: list[str]) -> None:
    """Words and URLs are left to a custom loader, and a value that is named like a file must be an input file of the
    job."""
    assert codes_of("CustomLoader", image=value) == codes


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("pasted/image.png", "send the file in `media` under this name"),
        ("https://example.com/a.png", r"media\[\]\.url"),
        ("clipspace/clipspace-mask-1.png [input]", "clipspace files are in your editor's ComfyUI alone"),
        ("a.png [output]", "the output folder is empty when a job starts"),
    ],
)
@pytest.mark.parametrize("files_are_known", [True, False])
def test_a_missing_input_file_is_refused_with_a_hint(value: str, hint: str, *, files_are_known: bool) -> None:
    """A missing input file is refused with a hint; with outdated lists only names that no engine can have are
    refused."""
    graph = parse_graph({"1": {"class_type": "Loader", "inputs": {"name": "a.safetensors", "image": value}}})
    faults = Catalogue(INFO).believing_files(files_are_known=files_are_known).check(graph, frozenset()).faults
    if value == "pasted/image.png" and not files_are_known:
        assert not faults
    else:
        assert re.search(hint, faults[0].hint)


PATH = {"is": "file", "below": "engine", "roots": ["input", "models", "/data"], "urls": True, "empty": False}
NAME = {"is": "file", "below": "input", "urls": False, "empty": False}
FOLDER = {"is": "folder", "below": "input", "urls": False, "empty": True}


def checking(check: dict[str, Any], value: Any, *, files_are_known: bool = True) -> list[str]:
    """Return the fault codes for a class whose own check was detected in the engine's process."""
    declared = {"required": {"it": [["listed"], {}]}, "optional": {}}
    info = {"input": declared, "output": [], "output_node": True, "python_module": "custom_nodes.x"}
    known = {"Reader": {**info, "unchecked_inputs": ["it"], "checked_files": {"it": check}}}
    graph = parse_graph({"1": {"class_type": "Reader", "inputs": {"it": value}}})
    brought = frozenset({"brought.png", "poses/1.png"})
    return [fault.code for fault in Catalogue(known, files_are_known=files_are_known).check(graph, brought).faults]


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (PATH, "<INPUT_1>"),
        (PATH, "K:\\pictures\\a.png"),
        (PATH, "/home/me/a.png"),
        (PATH, "ftp://example.com/a.png"),
        (PATH, ""),
        (NAME, "new.png"),
        (NAME, "https://example.com/a.png"),
        (NAME, "brought.png [output]"),
        (FOLDER, "scenes"),
        (FOLDER, "brought.png"),
    ],
)
def test_a_name_that_the_class_would_not_find_is_refused(check: dict[str, Any], value: str) -> None:
    """A name that does not exist is refused before a worker starts if the class is known to accept only existing
    files."""
    assert checking(check, value) == ["missing-medium"]
    assert checking(check, value, files_are_known=False) == []


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (PATH, "input/a.png"),
        (PATH, ' "input/a.png" '),
        (PATH, "./a.png"),
        (PATH, "../a.png"),
        (PATH, "/data/a.png"),
        (PATH, "https://example.com/a.png"),
        ({**PATH, "roots": ["input", "/"]}, "/anywhere/a.png"),
        ({**PATH, "empty": True}, ""),
        (NAME, "brought.png"),
        (NAME, "listed"),
        (NAME, '"brought.png"'),
        (NAME, "poses/1.png [input]"),
        (NAME, "poses/%04d.png"),
        (FOLDER, "poses"),
        (FOLDER, "poses/"),
        (FOLDER, "."),
        (NAME, 5),
    ],
)
def test_a_name_that_the_class_may_find_is_accepted(check: dict[str, Any], value: Any) -> None:
    """A name is accepted if the job provides it, the engine lists it, or it may exist on the engine's machine."""
    assert checking(check, value) == []


def test_models_of_custom_loaders_are_checked() -> None:
    """A missing model of a custom loader is refused."""
    assert codes_of("CustomLoader", name="b.safetensors") == ["missing-model"]


def test_outdated_lists_of_files_refuse_nothing() -> None:
    """With outdated lists models and input files are accepted, and choices from a node's code are still checked."""
    doubtful = Catalogue(INFO).believing_files(files_are_known=False)
    assert codes_of("Loader", doubtful, name="b.safetensors", image="new.png", none="x") == []
    assert codes_of("Number", doubtful, old="z") == ["value-not-in-list"]


def test_input_files_are_not_checked_without_their_names() -> None:
    """Input files are not checked if the names of the job's files are unknown."""
    graph = parse_graph({"1": {"class_type": "Loader", "inputs": {"name": "a.safetensors", "image": "new.png"}}})
    assert Catalogue(INFO).check(graph).faults == ()


def test_a_missing_model_is_named_with_a_command() -> None:
    """The message names the missing model, and the hint has a likely name and the command that fetches models."""
    graph = parse_graph({"1": {"class_type": "Loader", "inputs": {"name": "b.safetensors"}}})
    (fault,) = Catalogue(INFO).check(graph).faults
    assert "needs the model b.safetensors" in fault.message
    assert "sub/b.safetensors" in fault.hint
    assert "comfyui-modal models sync" in fault.hint


def test_a_growing_input_needs_parts_only_with_a_minimum() -> None:
    """A growing input is missing if it has a minimum and no part such as `images.image0`."""
    assert codes_of("Grows") == []
    graph = parse_graph({"1": {"class_type": "Grows", "inputs": {}}})
    assert [fault.code for fault in Catalogue(INFO).check(graph).faults] == ["missing-required-input"]


@pytest.mark.parametrize(
    ("inputs", "codes"),
    [
        ({"model": "small"}, []),
        ({"model": "other"}, []),
        ({"model": "large", "model.count": 3, "model.mode": "off"}, []),
        ({"model": "large", "model.count": "many", "model.mode": "off"}, ["wrong-input-type"]),
        ({"model": "large", "model.count": 99, "model.mode": "off"}, ["value-out-of-range"]),
        ({"model": "large", "model.mode": "off"}, ["missing-required-input"]),
        ({"model": "large", "model.count": 3, "model.mode": "on", "model.mode.size": "x"}, ["wrong-input-type"]),
    ],
)
def test_the_choice_of_a_dynamic_combo_decides_the_required_inputs(inputs: dict[str, Any], codes: list[str]) -> None:
    """The chosen option's inputs are checked like any others, and inputs of other options are ignored."""
    modes = [{"key": "off", "inputs": {}}, {"key": "on", "inputs": {"optional": {"size": ["INT"]}}}]
    large = {"count": ["INT", {"max": 9}], "mode": ["COMFY_DYNAMICCOMBO_V3", {"options": modes}]}
    options = [{"key": "small", "inputs": {}}, {"key": "large", "inputs": {"required": large}}]
    declared = {
        "required": {"model": ["COMFY_DYNAMICCOMBO_V3", {"options": [*options, {"key": "odd", "inputs": "none"}]}]}
    }
    catalogue = Catalogue({"Makes": {"input": declared, "output_node": True}})
    report = catalogue.check(parse_graph({"1": {"class_type": "Makes", "inputs": inputs}}))
    assert [fault.code for fault in report.faults] == codes


def test_all_faults_are_reported_at_once() -> None:
    """The faults of all nodes that outputs need are reported, and those of other nodes are not."""
    nodes = {
        "1": {"class_type": "Number", "inputs": {"whole": "a", "part": 0}},
        "2": {"class_type": "Numbr", "inputs": {}},
        "3": {"class_type": "Loader", "inputs": {"name": "a.safetensors", "none": ["1", 9]}},
    }
    report = Catalogue(INFO).check(parse_graph(nodes))
    assert [fault.code for fault in report.faults] == [
        "unknown-node-class",
        "wrong-input-type",
        "value-out-of-range",
        "dangling-link",
    ]
    assert {node_id: about["dependent_outputs"] for node_id, about in report.node_errors.items()} == {
        "1": ["1", "3"],
        "3": ["3"],
    }
    idle = {
        "4": {"class_type": "Silent", "inputs": {"whole": "a"}},
        "n": {"class_type": "Number", "inputs": VALID["Number"]},
    }
    silent = INFO | {"Silent": INFO["Number"] | {"output_node": False}}
    assert Catalogue(silent).check(parse_graph(idle)).faults == ()


def test_good_outputs_run_despite_bad_ones() -> None:
    """Valid outputs run, and for each faulty node the warnings name the outputs that do not, as in ComfyUI."""
    nodes = {
        "1": {"class_type": "Number", "inputs": VALID["Number"]},
        "2": {"class_type": "Number", "inputs": {"part": 1.0}},
        "3": {"class_type": "Number", "inputs": {"whole": ["2", 0], "part": 1.0}},
    }
    report = Catalogue(INFO).check(parse_graph(nodes))
    assert (report.is_refusal, report.runs) == (False, frozenset({"1"}))
    assert report.warnings() == {
        "2": {
            "class_type": "Number",
            "dependent_outputs": ["2", "3"],
            "errors": [
                {
                    "type": "required_input_missing",
                    "message": "Required input is missing",
                    "details": "whole",
                    "extra_info": {"input_name": "whole"},
                }
            ],
            "detail": "node 2 (Number) lacks its required input whole",
            "hint": "set whole, or link it",
        }
    }


def test_an_output_beyond_the_reported_faults_does_not_run() -> None:
    """Which outputs run does not depend on the truncated list of faults."""
    good = {"class_type": "Number", "inputs": VALID["Number"]}
    bad = {"class_type": "Number", "inputs": {"whole": "a", "part": 0}}
    report = Catalogue(INFO).check(parse_graph({**{str(n): bad for n in range(200)}, "good": good, "last": bad}))
    assert report.runs == {"good"}


def test_a_graph_that_fails_in_its_execution_is_refused() -> None:
    """A dangling or circular undeclared link refuses the graph, because ComfyUI follows it at execution and fails
    every output."""
    good = {"class_type": "Number", "inputs": VALID["Number"]}
    linked = {"class_type": "Number", "inputs": VALID["Number"] | {"undeclared": ["77", 0]}}
    ring = {"class_type": "Number", "inputs": VALID["Number"] | {"undeclared": ["2", 0]}}
    for other, code in ((linked, "dangling-link"), (ring, "workflow-cycle")):
        report = Catalogue(INFO).check(parse_graph({"1": good, "2": other}))
        assert (report.is_refusal, [fault.code for fault in report.faults]) == (True, [code])


def test_the_number_of_named_outputs_is_bounded() -> None:
    """The names of dependent outputs in a report are bounded, because 50 faults could each name 1,900 outputs."""
    bad: dict[str, Any] = {
        f"bad {number}": {"class_type": "Number", "inputs": {"whole": "a", "part": 0}} for number in range(50)
    }
    last = f"bad {len(bad) - 1}"
    for number in range(1, len(bad)):
        bad[f"bad {number}"]["inputs"]["part"] = [f"bad {number - 1}", 0]
    ends = {
        f"end {n:0250}": {"class_type": "Number", "inputs": VALID["Number"] | {"part": [last, 0]}} for n in range(300)
    }
    report = Catalogue(INFO).check(parse_graph(bad | ends))
    assert len(report.faults) == MOST_FAULTS
    named = [output for about in report.node_errors.values() for output in about["dependent_outputs"]]
    assert 0 < sum(map(len, named)) <= LONGEST_DEPENDENTS


def test_the_number_of_short_output_names_is_bounded() -> None:
    """A report names at most MOST_DEPENDENTS outputs, however short their ids: each takes memory when it is parsed."""
    bad: dict[str, Any] = {"0": {"class_type": "Number", "inputs": {"whole": "a", "part": 0}}}
    for number in range(1, 10):
        bad[str(number)] = {"class_type": "Number", "inputs": {"whole": "a", "part": [str(number - 1), 0]}}
    ends = {
        chr(0x4E00 + n): {"class_type": "Number", "inputs": VALID["Number"] | {"part": ["9", 0]}} for n in range(300)
    }
    report = Catalogue(INFO).check(parse_graph(bad | ends))
    assert sum(len(about["dependent_outputs"]) for about in report.node_errors.values()) == MOST_DEPENDENTS


def test_the_report_on_a_huge_broken_graph_is_short() -> None:
    """A report has at most MOST_FAULTS faults, with shortened values."""
    node = {"class_type": "Number", "inputs": {"whole": "a" * 10_000, "part": 0}}
    report = Catalogue(INFO).check(parse_graph({str(n): node for n in range(500)}))
    assert len(report.faults) == MOST_FAULTS
    assert len(json.dumps(report.node_errors)) < 200_000


class Counted(float):
    """A number that counts how often it is written as text."""

    written = 0

    def __repr__(self) -> str:
        Counted.written += 1
        return super().__repr__()


LARGE = [Counted(0.5)] * 50_000
BAD_NUMBER: dict[str, Any] = {"class_type": "Number", "inputs": VALID["Number"]}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (BAD_NUMBER | {"inputs": {"whole": {"a": LARGE}, "part": 1.0}}, ["wrong-input-type"]),
        (BAD_NUMBER | {"inputs": VALID["Number"] | {"words": {"a": LARGE}}}, []),
        (BAD_NUMBER | {"inputs": VALID["Number"] | {"words": {"__value__": LARGE}}}, []),
        (BAD_NUMBER | {"inputs": VALID["Number"] | {"mixed": {"a": LARGE}}}, ["wrong-input-type"]),
        (BAD_NUMBER | {"inputs": VALID["Number"] | {"yes": LARGE}}, ["wrong-input-type"]),
        (BAD_NUMBER | {"inputs": VALID["Number"] | {"yes": [LARGE, 0]}}, ["dangling-link"]),
        ({"class_type": "New", "inputs": VALID["New"] | {"one": {"a": LARGE}}}, ["value-not-in-list"]),
        ({"class_type": "New", "inputs": VALID["New"] | {"many": {"__value__": LARGE}}}, ["value-not-in-list"]),
        ({"class_type": "Loader", "inputs": VALID["Loader"] | {"image": {"a": LARGE}}}, ["missing-medium"]),
        ({"class_type": "Loader", "inputs": VALID["Loader"] | {"mask": {"a": LARGE}}}, ["missing-medium"]),
        ({"class_type": "Unknown", "inputs": {}, "_meta": {"title": LARGE}}, ["unknown-node-class"]),
    ],
)
def test_only_the_beginning_of_a_large_value_is_written(node: dict[str, Any], expected: list[str]) -> None:
    """Checking a value and describing its faults writes a bounded number of its members as text."""
    Counted.written = 0
    report = Catalogue(INFO).check(parse_graph({"1": node}), frozenset())
    assert [fault.code for fault in report.faults] == expected
    assert Counted.written < 2_000
    assert len(json.dumps([[fault.engine, fault.message, fault.hint] for fault in report.faults])) < 10_000


@pytest.mark.parametrize("name", ["yes", "undeclared"])
def test_the_id_of_a_missing_node_is_shortened(name: str) -> None:
    """A link to a missing node is reported with the beginning of a long id."""
    node = {"class_type": "Number", "inputs": VALID["Number"] | {name: ["x" * 100_000, 0]}}
    for catalogue in (Catalogue(INFO), Catalogue.absent()):
        (fault,) = catalogue.check(parse_graph({"1": node})).faults
        assert fault.code == "dangling-link"
        assert len(json.dumps([fault.engine, fault.message])) < 2_000


@pytest.mark.parametrize(
    "described",
    [
        None,
        [],
        {"input": []},
        {"input": {"required": ["whole"]}},
        {"input": {"required": {"whole": None}}, "output": "INT"},
    ],
)
def test_a_malformed_class_description_is_left_to_the_engine(described: Any) -> None:
    """A class with a malformed description in object_info refuses nothing."""
    info = INFO | {"Odd": described}
    nodes = {
        "1": {"class_type": "Odd", "inputs": {"whole": "a"}},
        "2": {"class_type": "Number", "inputs": VALID["Number"] | {"yes": ["1", 7]}},
    }
    assert Catalogue(info).check(parse_graph(nodes)).faults == ()
