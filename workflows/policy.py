"""Decides which node classes a submitted graph may use. A custom node is code, and some nodes run what the graph says.

A policy is a list of case-sensitive patterns (`*`, `?` and `[…]` as in file names), read from left to right. The last
one that matches a class decides: `Shell*` denies, `!Shell*` allows, and `default` stands for the classes below. So
`default, !EvalPython` allows one of them, and `*, !KSampler, !SaveImage` denies all but two.

`default` lists classes that are publicly known to run code from the graph. For strangers' graphs it also lists classes
that read or write any path, or use the screen or the camera; for a team's own graphs the engine's isolation suffices
there. The classes of the packs built into our image were found in their sources. A policy is not a sandbox: an unlisted
class is not restricted.
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
"""The author of a graph: the deployment's own team, or unknown people. See docs/explanation/security.md."""
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
    """A parsed policy. `rules` are patterns with the objection to a matching class, or None where it is allowed.

    `text` is the setting that they were parsed from.
    """

    text: str
    rules: Mapping[GraphTrust, Rules]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse comma-separated patterns. Raises ValueError for an empty one."""
        patterns = [pattern.strip() for pattern in text.split(",")] if text.strip() else []
        return cls(
            text,
            {trust: tuple(rule for pattern in patterns for rule in _rules(pattern, trust)) for trust in _DENIED_FOR},
        )

    def objection(self, class_type: str, graphs: GraphTrust) -> str | None:
        """Return why such graphs may not use this class, or None if they may."""
        rules = self.rules[graphs]
        rule = _last_of(rules).match(class_type)
        return None if rule is None or rule.lastindex is None else rules[-rule.lastindex][1]

    def check(self, graph: Graph, graphs: GraphTrust) -> None:
        """Raise `NodeNotAllowed` for the first denied node. Its hint is the value of the setting that allows it."""
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
    """Compile all patterns into one expression whose group number counts matching rules from the last."""
    # Reversed, because alternatives are tried in order and the last rule decides. One expression for all rules keeps
    # the check of a graph with thousands of nodes fast.
    return re.compile("|".join(f"({translate(pattern)})" for pattern, _ in reversed(rules)) or r"(?!)")


def _literal(class_type: str) -> str:
    """Return a pattern that matches this name."""
    # A comma would end the pattern, so `?` stands for it.
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
