"""Flags that an operator passes to ComfyUI, and flags that the worker adds."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from infra.compose.worker import engine_spec
from infra.settings import EngineSettings, Settings
from workers.comfy.flags import DYNAMIC_VRAM_OFF, RESERVED, default_flags, parse_flags


def comfyui(folder: Path, *flags: str) -> Path:
    """A ComfyUI folder that contains only its flag definitions."""
    (folder / "comfy").mkdir()
    lines = "".join(f'parser.add_argument("{flag}", action="store_true", help="…")\n' for flag in flags)
    (folder / "comfy" / "cli_args.py").write_text(lines)
    return folder


def test_flags_are_split_as_a_shell_does() -> None:
    """Flags are split as in a shell: quoted words and values stay together, and a negative number is a value."""
    assert parse_flags("--lowvram --reserve-vram 2 --fast 'a b' --default-device -1") == (
        *("--lowvram", "--reserve-vram", "2", "--fast", "a b", "--default-device", "-1"),
    )
    assert parse_flags("") == ()


@pytest.mark.parametrize("flag", sorted(RESERVED))
def test_flags_of_the_worker_are_refused_by_name(flag: str) -> None:
    """A flag that the worker sets itself is refused by name, with or without a value."""
    for words in (flag, f"--lowvram {flag}=x", f"{flag} x"):
        with pytest.raises(ValueError, match=f"^{flag} cannot be given: "):
            parse_flags(words)


@pytest.mark.parametrize("flag", ["--lis", "--po=1", "--output-dir", "--", "--c"])
def test_an_abbreviation_is_refused_as_well(flag: str) -> None:
    """An abbreviation of a reserved flag is refused, because argparse would accept it."""
    with pytest.raises(ValueError, match="cannot be given"):
        parse_flags(flag)


def test_longer_names_are_other_flags() -> None:
    """A flag that only starts like a reserved one, such as `--cpu-vae`, is accepted."""
    assert parse_flags("--cpu-vae --disable-metadata") == ("--cpu-vae", "--disable-metadata")


def test_a_positional_argument_is_refused() -> None:
    """A positional argument, with which ComfyUI would exit, is refused."""
    with pytest.raises(ValueError, match="lowvram is no flag"):
        parse_flags("lowvram")


def test_the_setting_refuses_reserved_flags() -> None:
    """The setting refuses a reserved flag before any container starts."""
    assert Settings(bucket="b", engine_flags="--lowvram").engine_flags == "--lowvram"
    with pytest.raises(ValueError, match="--port cannot be given"):
        Settings(bucket="b", engine_flags="--port 80")


def test_dynamic_vram_is_off_where_the_engine_knows_the_flag(tmp_path: Path) -> None:
    """Dynamic VRAM is switched off only in a ComfyUI that knows the flag, and not if the operator sets it."""
    folder = comfyui(tmp_path, "--lowvram", DYNAMIC_VRAM_OFF, "--enable-dynamic-vram")
    assert default_flags(folder, ()) == (DYNAMIC_VRAM_OFF,)
    assert default_flags(folder, ("--enable-dynamic-vram",)) == ()
    assert default_flags(folder, (DYNAMIC_VRAM_OFF,)) == ()
    (folder / "comfy" / "cli_args.py").write_text('parser.add_argument("--lowvram")\n')
    assert default_flags(folder, ()) == ()
    assert default_flags(tmp_path / "nothing", ()) == ()


def test_flags_follow_those_of_the_worker(tmp_path: Path) -> None:
    """The operator's flags follow the worker's on the command line."""
    folder = comfyui(tmp_path, DYNAMIC_VRAM_OFF)
    settings = Settings(bucket="b", engine=str(folder), engine_dir=tmp_path / "w", engine_flags="--lowvram")
    assert list(engine_spec(settings, {}).command)[-2:] == [DYNAMIC_VRAM_OFF, "--lowvram"]


def test_every_reserved_flag_exists_in_comfyui() -> None:
    """Every reserved flag exists in the ComfyUI that COMFYUI_DIR names."""
    folder = EngineSettings().comfyui_dir
    if folder is None:
        return  # without a ComfyUI only the tests above apply
    known = set(re.findall(r'"(--?[\w-]+)"', (folder / "comfy" / "cli_args.py").read_text()))
    newer = {"--models-directory", "--list-feature-flags", "--enable-manager", "--enable-manager-legacy-ui"}
    newer |= {"--use-ck-attention"}
    assert set(RESERVED) - newer - {"-h", "--help"} <= known


def test_a_real_comfyui_accepts_the_added_flags() -> None:
    """The ComfyUI that COMFYUI_DIR names accepts the flags that the worker adds."""
    settings = EngineSettings()
    if settings.comfyui_dir is None or settings.comfyui_python is None:
        return  # as above
    words = [*default_flags(settings.comfyui_dir, ()), "--lowvram"]
    code = "import comfy.options; comfy.options.enable_args_parsing(); import comfy.cli_args"
    command = [str(settings.comfyui_python), "-c", code, *words]
    env = {"PATH": os.defpath}
    ended = subprocess.run(command, cwd=settings.comfyui_dir, env=env, capture_output=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
