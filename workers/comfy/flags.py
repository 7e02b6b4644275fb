"""ComfyUI flags that an operator adds, and the one that we add if the engine knows it.

Some flags are reserved: if an operator changed them, the worker could not control its engine, or the engine would lose
its isolation. argparse accepts every unambiguous prefix of a name, so prefixes are refused as well.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

DYNAMIC_VRAM_OFF = "--disable-dynamic-vram"
"""Turns off a feature that hooks CUDA's allocator and is not known to work under gVisor."""
_DYNAMIC_VRAM_ON = "--enable-dynamic-vram"

_SOCKET = "the engine listens on a socket of its worker alone"
_FOLDERS = "the worker gives the engine its folders, and empties them between jobs"
_OUR_NODE = "the worker drives the engine by a custom node of its own"
_ENDS = "the engine would end, or install something, instead of serving"
_ATTENTION = "set COMFYUI_MODAL_ATTENTION"

RESERVED = {
    **dict.fromkeys(("--listen", "--port", "--tls-keyfile", "--tls-certfile", "--enable-cors-header"), _SOCKET),
    **dict.fromkeys(("--max-upload-size", "--auto-launch", "--windows-standalone-build"), _SOCKET),
    **dict.fromkeys(("--enable-compress-response-body", "--front-end-version", "--front-end-root"), _SOCKET),
    **dict.fromkeys(("--base-directory", "--input-directory", "--output-directory", "--temp-directory"), _FOLDERS),
    **dict.fromkeys(("--user-directory", "--models-directory", "--database-url", "--multi-user"), _FOLDERS),
    "--extra-model-paths-config": "keep an extra_model_paths.yaml in ComfyUI's folder, which it reads as well",
    **dict.fromkeys(("--disable-all-custom-nodes", "--whitelist-custom-nodes"), _OUR_NODE),
    **dict.fromkeys(("--quick-test-for-ci", "--list-feature-flags", "--help", "-h"), _ENDS),
    **dict.fromkeys(("--enable-manager", "--enable-manager-legacy-ui"), _ENDS),
    "--cpu": "set COMFYUI_MODAL_COMFYUI_CPU",
    **dict.fromkeys(("--use-sage-attention", "--use-pytorch-cross-attention", "--use-flash-attention"), _ATTENTION),
    **dict.fromkeys(("--use-split-cross-attention", "--use-quad-cross-attention", "--use-ck-attention"), _ATTENTION),
}
"""The reserved flags, with the reason or the alternative."""


def parse_flags(text: str) -> tuple[str, ...]:
    """Split the flags like a shell. Raises ValueError with the flag that cannot be given, and the reason."""
    words = tuple(shlex.split(text))
    if words and not words[0].startswith("-"):
        raise ValueError(f"{words[0]} is no flag: flags begin with --")
    for word in words:
        name = word.partition("=")[0]
        # A negative number is the value of the flag before it.
        if word.startswith("-") and not _is_number(word) and (reserved := _reserved(name)) is not None:
            raise ValueError(f"{name} cannot be given: {RESERVED[reserved]}")
    return words


def _reserved(name: str) -> str | None:
    """Return the reserved flag of which argparse could accept this as a prefix, or None."""
    # argparse accepts every unambiguous prefix of a flag.
    return next((flag for flag in RESERVED if flag == name or (len(name) > 1 and flag.startswith(name))), None)


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-\d+(\.\d+)?", word) is not None


def default_flags(directory: Path, given: Sequence[str]) -> tuple[str, ...]:
    """Return the flags that we add for this ComfyUI: only those that its version knows, since it exits at others."""
    if _DYNAMIC_VRAM_ON in given or DYNAMIC_VRAM_OFF in given:
        return ()
    return (DYNAMIC_VRAM_OFF,) if DYNAMIC_VRAM_OFF in _known_flags(directory) else ()


def _known_flags(directory: Path) -> frozenset[str]:
    """Read ComfyUI's flags from its source; empty if it cannot be read."""
    # An import would load torch.
    try:
        source = (directory / "comfy" / "cli_args.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    return frozenset(re.findall(r"""add_argument\(\s*["'](--[\w-]+)["']""", source))
