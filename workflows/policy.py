"""Which node classes a submitted graph may use: a custom node is code, and some of it does whatever the graph says.

A policy is a list of patterns (`*`, `?` and `[…]` as in file names, case counts), read from left to right; the last one
that fits a class decides: `Shell*` denies, `!Shell*` allows, and `default` stands for the classes below. So
`default, !EvalPython` allows one of them, and `*, !KSampler, !SaveImage` denies all but two.

`default` names classes that are known in public to run code from the graph. For graphs of strangers it also names those
that read or write any path, or use the screen or the camera: in graphs of one's own the engine's isolation is enough
for them. The classes of the packs that are built into our image are read from their sources. A policy is no sandbox: a
class that nobody has listed does what it does.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Literal, Self

from workflows.errors import NodeNotAllowed, pointer
from workflows.graph import Graph

GraphTrust = Literal["own", "strangers"]
"""Who writes the graphs: the deployment's own team, or people whom nobody knows. See docs/security.md."""
SETTING = "COMFYUI_MODAL_DENIED_NODES"
DEFAULT = "default"
ALLOWS = "!"

_RUNS_CODE = "runs code that the graph brings"
_ANY_PATH = "reads or writes any path on the worker"
_DEVICES = "uses the worker's screen or camera"

DENIED: Mapping[str, tuple[str, ...]] = {
    _RUNS_CODE: (
        "ACE_Expression*Eval",  # CVE-2024-21577
        "AdvancedScript",
        "AnyNode*",
        "AutogenCodeExecutor",
        "BuildColorRangeHSVAdvanced",  # CVE-2024-21576, as the two contours
        "DockerSandboxRunner",
        "EVAL",
        "Eval",
        "EvalFloats",
        "EvalPython",
        "Eval_AS",
        "Evaluate Floats",
        "Evaluate Integers",
        "Evaluate Strings",
        "Exec Python Code Script",
        "ExecutePython*",
        "FilterContour",
        "FindContour",
        "IDENode",
        "MathExpressionNode",
        "NodePython*",
        "NotebookCell",
        "Power Puter (rgthree)",  # an interpreter of Python that takes any attribute of any object
        "PyExec",
        "PythonCodeExecutor",
        "PythonInterpreter",
        "RunPython*",
        "SRL Eval",
        "Script",
        "SilverRunPythonCode",
        "SILVER.SilverRunPythonCode",
        "SrlEval",
        "UtilityExpression",
        "script.py",
    ),
    _ANY_PATH: (
        "Create Morph Image from Path",  # WAS node suite, to Write to Video
        "Create Video from Path",
        "Export API",
        "Image Save",
        "Load Image Batch",
        "Load Text File",
        "Save Text File",
        "Text File History Loader",
        "Text Load Line From File",
        "Video Dump Frames",
        "Write to GIF",
        "Write to Video",
        "LoadImage*FromDir //Inspire",  # Inspire pack
        "LoadPromptsFrom* //Inspire",
        "LoadImageFromPath",
        "LoadTrainingDataset",  # ComfyUI's own, to SaveTrainingDataset: join a folder's name to another as it comes
        "SaveImageDataSetToFolder",
        "SaveImageTextDataSetToFolder",
        "SaveTrainingDataset",
        "CameraPoseVisualizer",  # KJNodes, to VisualizeCUDAMemoryHistory
        "CreateAudioMask",
        "EndRecordCUDAMemoryHistory",
        "LoadImagesFromFolderKJ",
        "LoadVideosFromFolder",
        "PlaySoundKJ",
        "SaveImageKJ",
        "SaveStringKJ",
        "VisualizeCUDAMemoryHistory",
        "VHS_LoadAudio",  # VideoHelperSuite; its *Upload nodes read the input folder
        "VHS_LoadImagePath",
        "VHS_LoadImagesPath",
        "VHS_LoadVideoFFmpegPath",
        "VHS_LoadVideoPath",
    ),
    _DEVICES: ("ImageGrabPIL", "Screencap_mss", "WebcamCaptureCV2"),
}


_DENIED_FOR: Mapping[GraphTrust, tuple[str, ...]] = {"own": (_RUNS_CODE,), "strangers": tuple(DENIED)}
Rules = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """`rules` are patterns with what speaks against a class that fits; None where it is allowed. `text` is their
    source.
    """

    text: str
    rules: Mapping[GraphTrust, Rules]

    @classmethod
    def parse(cls, text: str) -> Self:
        """From patterns with commas between. ValueError for one that is empty."""
        patterns = [pattern.strip() for pattern in text.split(",")] if text.strip() else []
        return cls(
            text,
            {trust: tuple(rule for pattern in patterns for rule in _rules(pattern, trust)) for trust in _DENIED_FOR},
        )

    def objection(self, class_type: str, graphs: GraphTrust) -> str | None:
        """Why such graphs may not use this class; None if they may."""
        rules = self.rules[graphs]
        rule = _last_of(rules).match(class_type)
        return None if rule is None or rule.lastindex is None else rules[-rule.lastindex][1]

    def check(self, graph: Graph, graphs: GraphTrust) -> None:
        """Raises `NodeNotAllowed` for the first node that may not be used, with the value of the setting that allows
        it.
        """
        for node_id, node in graph.nodes.items():
            reason = self.objection(node.class_type, graphs)
            if reason is not None:
                raise NodeNotAllowed(
                    f"node {node_id} is a {node.class_type}, which {reason}",
                    pointer=pointer(node_id, "class_type"),
                    node_id=node_id,
                    hint=f'the operator can allow it: {SETTING}="{self.text}, {ALLOWS}{_literal(node.class_type)}"',
                )


@lru_cache(maxsize=8)
def _last_of(rules: Rules) -> re.Pattern[str]:
    """The last pattern that fits, counted from the end, as the number of its group."""
    return re.compile("|".join(f"({translate(pattern)})" for pattern, _ in reversed(rules)) or r"(?!)")


def _literal(class_type: str) -> str:
    """The pattern that fits this name; a comma would end the pattern, so any character may stand in its place."""
    return re.sub(r"([*?[])", r"[\1]", class_type).replace(",", "?")


def _rules(pattern: str, graphs: GraphTrust) -> Iterator[tuple[str, str | None]]:
    if not pattern.removeprefix(ALLOWS):
        raise ValueError("an empty pattern")
    if pattern == DEFAULT:
        yield from ((name, reason) for reason in _DENIED_FOR[graphs] for name in DENIED[reason])
    elif pattern.startswith(ALLOWS):
        yield pattern.removeprefix(ALLOWS), None
    else:
        yield pattern, "this deployment does not allow"
