"""Flags of ComfyUI that an operator adds, and the one that we add where the engine knows it.

Some flags are not the operator's: without them the worker could not drive its engine, or the engine would not be kept
apart any more. argparse takes any prefix that is unambiguous for the whole name, so prefixes are refused as well.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

DYNAMIC_VRAM_OFF = "--disable-dynamic-vram"
"""It hooks CUDA's allocator, which nobody has seen work under gVisor yet."""
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
"""Which flags are not the operator's, and why, or what to do instead."""


def parse_flags(text: str) -> tuple[str, ...]:
    """As a shell would split them. ValueError names the flag that cannot be given, and says why."""
    words = tuple(shlex.split(text))
    if words and not words[0].startswith("-"):
        raise ValueError(f"{words[0]} is no flag: flags begin with --")
    for word in words:
        name = word.partition("=")[0]
        if word.startswith("-") and not _is_number(word) and (reserved := _reserved(name)) is not None:
            raise ValueError(f"{name} cannot be given: {RESERVED[reserved]}")
    return words


def _reserved(name: str) -> str | None:
    """The reserved flag that argparse might take this for."""
    return next((flag for flag in RESERVED if flag == name or (len(name) > 1 and flag.startswith(name))), None)


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-\d+(\.\d+)?", word) is not None


def default_flags(directory: Path, given: Sequence[str]) -> tuple[str, ...]:
    """What we add for the ComfyUI in this folder: only flags that its version knows, for it ends at any other."""
    if _DYNAMIC_VRAM_ON in given or DYNAMIC_VRAM_OFF in given:
        return ()
    return (DYNAMIC_VRAM_OFF,) if DYNAMIC_VRAM_OFF in _known_flags(directory) else ()


def _known_flags(directory: Path) -> frozenset[str]:
    """Read from its source: to import it would take torch, and seconds. None where it cannot be read."""
    try:
        source = (directory / "comfy" / "cli_args.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    return frozenset(re.findall(r"""add_argument\(\s*["'](--[\w-]+)["']""", source))
