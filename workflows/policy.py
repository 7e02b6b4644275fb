"""Which node classes a submitted graph may use: a custom node is code, and some of it does whatever the graph says.

A policy is a list of patterns (`*`, `?` and `[…]` as in file names, case counts), read from left to right, the last one
that fits a class decides: `Shell*` denies, `!Shell*` allows, and `default` stands for the classes below. So
`default, !VHS_LoadVideoPath` allows one of them, and `*, !KSampler, !SaveImage` denies all but two.

`default` names classes that are known in public to run code from the graph, or to read or write any path; those of the
packs that are built into our image are read from their sources. It is no sandbox: a class that nobody has listed does
what it does. Who may submit graphs of their own should have only nodes installed that one trusts.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Self

from workflows.errors import NodeNotAllowed, pointer
from workflows.graph import Graph

DEFAULT = "default"
ALLOWS = "!"

_RUNS_CODE = "runs code that the graph brings"
_ANY_PATH = "reads or writes any path on the worker"
_DEVICES = "looks at the worker's screen or camera"

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


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """Patterns with what speaks against a class that fits; None where it is allowed."""

    rules: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """From patterns with commas between. ValueError for one that is empty."""
        return cls(
            tuple(rule for pattern in text.split(",") for rule in _rules(pattern.strip())) if text.strip() else ()
        )

    def objection(self, class_type: str) -> str | None:
        """Why graphs may not use this class; None if they may."""
        rule = _last_of(self.rules).match(class_type)
        return None if rule is None or rule.lastindex is None else self.rules[-rule.lastindex][1]

    def check(self, graph: Graph) -> None:
        """Raises `NodeNotAllowed` for the first node that may not be used."""
        for node_id, node in graph.nodes.items():
            reason = self.objection(node.class_type)
            if reason is not None:
                raise NodeNotAllowed(
                    f"node {node_id} is a {node.class_type}, which {reason}",
                    pointer=pointer(node_id, "class_type"),
                    node_id=node_id,
                )


@lru_cache(maxsize=4)
def _last_of(rules: tuple[tuple[str, str | None], ...]) -> re.Pattern[str]:
    """The last pattern that fits, counted from the end, as the number of its group."""
    return re.compile("|".join(f"({translate(pattern)})" for pattern, _ in reversed(rules)) or r"(?!)")


def _rules(pattern: str) -> Iterator[tuple[str, str | None]]:
    if not pattern.removeprefix(ALLOWS):
        raise ValueError("an empty pattern")
    if pattern == DEFAULT:
        yield from ((name, reason) for reason, names in DENIED.items() for name in names)
    elif pattern.startswith(ALLOWS):
        yield pattern.removeprefix(ALLOWS), None
    else:
        yield pattern, "this deployment does not allow"
