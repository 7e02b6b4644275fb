"""Widgets that the JavaScript of well-known packs adds to their nodes, which object_info does not declare.

Only what was seen to equal the packs' own JavaScript is here. For other classes whose JavaScript is known to change
widgets, `SCRIPTED` makes the conversion refuse.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from workflows.editor.document import EditorNode
from workflows.editor.text import script_text

POWER_LORA_LOADER, SEED = "Power Lora Loader (rgthree)", "Seed (rgthree)"
IMAGE_COMPARER, SHOW_TEXT = "Image Comparer (rgthree)", "ShowText|pysssss"
_HEADER = "PowerLoraLoaderHeaderWidget"
_STRENGTHS, _SEPARATE = "Show Strengths", "Separate Model & Clip"
_RANDOM = -1
_COMPARED = 2
BUTTONS = {
    **dict.fromkeys(
        (
            *("ConditioningMultiCombine", "CrossFadeImagesMulti", "ImageAddMulti", "ImageBatchMulti"),
            *("ImageConcatMulti", "JoinStringMulti", "MaskBatchMulti", "TransitionImagesMulti"),
        ),
        "Update inputs",
    ),
    **dict.fromkeys(
        ("FluxBlockLoraSelect", "HunyuanVideoBlockLoraSelect", "LTX2BlockLoraSelect", "Wan21BlockLoraSelect"), "Set all"
    ),
}
"""Buttons of KJNodes after the declared widgets. The editor exports them too."""
NOTED = {"ImageResizeKJv2": 1}
"""Numbers of values after the declared ones that are not exported: a note on the last result."""
SCRIPTED = frozenset(
    """
3DImage
AppInfo
CR Seed to Int
CheckpointLoader|pysssss
Create Hook LoRA (LoraManager)
DepthViewer
ETN_Parameter
FluxAttentionSeeker+
Ideogram4PromptBuilderKJ
KSampler (WAS)
KeyInput
LoadAndCombinedAudio_
LoadImagesFromPath
LoadImagesToBatch
LoadPromptsFromFile //Inspire
LoadSinglePromptFromFile //Inspire
LoadVideoAndSegment_
Lora Cycler (LoraManager)
Lora Info (LoraManager)
Lora Loader (LoraManager)
Lora Pool (LoraManager)
Lora Randomizer (LoraManager)
Lora Stacker (LoraManager)
LoraLoader|pysssss
NewLayer
P5Input
PointsEditor
Power Primitive (rgthree)
Power Prompt (rgthree)
Power Prompt - Simple (rgthree)
Power Puter (rgthree)
Prompt (LoraManager)
RandomPrompt
RegionalSeedExplorerColorMask //Inspire
RegionalSeedExplorerMask //Inspire
SD3AttentionSeekerLG+
SD3AttentionSeekerT5+
SDXL Power Prompt - Positive (rgthree)
SDXL Power Prompt - Simple / Negative (rgthree)
ScreenShare
ScreencapStream
SeedExplorer //Inspire
ShowCachedInfo //Inspire
ShowLayer
SoundReactive
SpeechRecognition
SplineEditor
SvgImage
Text (LoraManager)
TriggerWord Toggle (LoraManager)
VHS_BatchManager
WanVideo Lora Select (LoraManager)
mxSlider
mxSlider2D
""".strip().splitlines()
)
"""Classes whose pack's JavaScript adds, removes or fills in widgets. Found with 45 packs' JavaScript in the editor."""

Named = list[tuple[str, Any]]


def whole_widgets(node: EditorNode) -> Named | None:
    """Return all widgets of a node by name, or None for a class whose declaration counts."""
    if isinstance(node.values, Mapping):
        return None
    match node.kind:
        case "Power Lora Loader (rgthree)":
            return _loras(node)
        case "Seed (rgthree)" if not node.properties.get("showLastSeed"):
            return [("seed", node.values[0] if node.values else _RANDOM)]
        case "Display Any (rgthree)" | "Display Int (rgthree)":
            return [("output", "")]
        case "Image Comparer (rgthree)":
            return _compared(node.values)
        case "ShowText|pysssss" if not any(slot.widget for slot in node.inputs):
            return _texts(node.values)
    return None


def _loras(node: EditorNode) -> Named:
    is_separate = node.properties.get(_STRENGTHS) == _SEPARATE
    saved = [value for value in node.values if isinstance(value, Mapping) and "lora" in value]
    loras = [(f"lora_{number}", _lora(value, is_separate=is_separate)) for number, value in enumerate(saved, start=1)]
    return [(_HEADER, {"type": _HEADER}), *loras, ("➕ Add Lora", "")]


def _lora(saved: Mapping[str, Any], *, is_separate: bool) -> dict[str, Any]:
    kept = {name: value for name, value in saved.items() if name != "strengthTwo"}
    if not is_separate:
        return kept
    second = saved.get("strengthTwo")
    return {**kept, "strengthTwo": 1 if second is None else second}


def _compared(values: Any) -> Named | None:
    """Return the pictures of an earlier run, if they are two that are both shown, or none."""
    images = values[0] if values and isinstance(values[0], list) else [] if not values else None
    if images is None or not all(isinstance(one, Mapping) and one.get("selected") is True for one in images):
        return None
    return [("rgthree_comparer", {"images": images})] if len(images) in (0, _COMPARED) else None


def _texts(values: Sequence[Any]) -> Named:
    """Return the shown texts. A first value that is empty stood for the input."""
    shown = values[1:] if values and not values[0] else values
    lists = [one if isinstance(one, list) else [one] for one in shown]
    texts = [text for one in lists for text in one]
    return [(f"text_{number}", "" if text is None else script_text(text)) for number, text in enumerate(texts)]
