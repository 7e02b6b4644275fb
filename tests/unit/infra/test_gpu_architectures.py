"""The GPU architectures that SageAttention is compiled for, and the compiler flags that its setup.py then requests."""

import itertools
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from infra.gpus import (
    ARCHITECTURES,
    MEMORY_GB,
    MODAL_USD_PER_S,
    SAGE_ARCHITECTURES,
    architecture,
    expected_attention,
    sage_architectures,
)
from infra.image import sage_flags_patch

GPUS = ("L4", "A10", "L40S", "A100-80GB", "H100", "B200", "RTX-PRO-6000")
LISTS = [combination for size in (1, 2, 3) for combination in itertools.combinations(GPUS, size)]
PINNED = os.environ.get("SAGEATTENTION_SETUP")
"""The path of the pinned setup.py; without it, a file of the same structure is patched."""

SETUP = """
import os
from setuptools import setup
from torch.utils.cpp_extension import CUDAExtension

ext_modules = []
NVCC_FLAGS = ["-O3", "--use_fast_math", "-diag-suppress=174"]
wanted = os.environ["TORCH_CUDA_ARCH_LIST"].split(";")
for capability in wanted:
    number = capability.replace(".", "") + ("a" if float(capability) >= 9 else "")
    NVCC_FLAGS += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
for name in ("_qattn_sm80", "_qattn_sm89"):
    ext_modules.append(
        CUDAExtension(
            name=f"sageattention.{name}",
            sources=[],
            extra_compile_args={"cxx": [], "nvcc": NVCC_FLAGS},
        )
    )
if "9.0" in wanted:
    ext_modules.append(
        CUDAExtension(
            name="sageattention._qattn_sm90",
            sources=[],
            extra_compile_args={"cxx": [], "nvcc": NVCC_FLAGS},
            extra_link_args=['-lcuda'],
        )
    )
setup(name="sageattention", ext_modules=ext_modules)
"""


def test_every_gpu_with_a_price_has_an_architecture_and_memory() -> None:
    assert MODAL_USD_PER_S.keys() <= ARCHITECTURES.keys()
    assert MEMORY_GB.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (["L40S"], ("8.9",)),
        (["L40S", "H100", "A100-40GB"], ("8.0", "8.9", "9.0")),
        (["H100!", "l4:2"], ("8.9", "9.0")),
        (["T4"], ()),
        (["B300", "any"], ()),
        ([], ()),
    ],
)
def test_the_architectures_follow_from_the_gpus(gpus: list[str], expected: tuple[str, ...]) -> None:
    """The architectures are derived from GPU names in any of Modal's spellings; an unknown GPU adds none."""
    assert sage_architectures(gpus) == expected


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        ("L40S", "SageAttention 2, built for architecture 8.9"),
        ("A100", "the image is not built for architecture 8.0"),
        ("T4", "has no kernels for architecture 7.5"),
        ("X1", "does not know the GPU"),
    ],
)
def test_a_deploy_says_which_attention_a_gpu_gets(gpu: str, words: str) -> None:
    """A deploy says which attention implementation each GPU gets and why."""
    assert words in expected_attention(gpu, ("8.9",))


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the pinned setup.py does not close its README
@pytest.mark.parametrize("gpus", LISTS, ids="+".join)
def test_hoppers_kernels_are_compiled_for_hopper_alone(tmp_path: Path, gpus: tuple[str, ...]) -> None:
    """The Hopper extension is compiled for Hopper only, and the others for every requested architecture."""
    targets = sage_architectures(gpus)
    extensions = _extensions(tmp_path, targets)
    assert ("sageattention._qattn_sm90" in extensions) == ("9.0" in targets)
    for name, flags in extensions.items():
        found = {flag for flag in flags if flag.startswith("arch=")}
        assert flags.count("-gencode") == len([flag for flag in flags if flag.startswith("arch=")])
        assert {"-O3", "-diag-suppress=174"} <= set(flags)
        if name == "sageattention._qattn_sm90":
            assert found == {"arch=compute_90a,code=sm_90a"}
        else:
            assert {one.partition("sm_")[2].rstrip("a") for one in found} == {one.replace(".", "") for one in targets}
    assert {architecture(gpu) for gpu in gpus} <= SAGE_ARCHITECTURES


def _extensions(folder: Path, targets: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the nvcc flags by extension that the patched setup.py requests; nothing is compiled."""
    setup = folder / "setup.py"
    setup.write_text(Path(PINNED).read_text() if PINNED else SETUP)
    (folder / "README.md").touch()
    subprocess.run(["/bin/bash", "-c", sage_flags_patch(str(setup))], check=True)
    with _without_a_compiler(folder, targets) as asked:
        runpy.run_path(str(setup), run_name="__main__")
    return {one.name: list(one.extra_compile_args["nvcc"]) for one in asked["ext_modules"]}


@contextmanager
def _without_a_compiler(folder: Path, targets: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Replace torch and setuptools by recorders, with a CUDA home whose nvcc only prints its version."""
    asked: dict[str, Any] = {}
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho release 13.0, V13.0\n")
    nvcc.chmod(0o755)
    extension: Any = ModuleType("torch.utils.cpp_extension")
    extension.CUDAExtension, extension.BuildExtension = SimpleNamespace, type("BuildExtension", (), {})
    extension.CUDA_HOME = str(folder)
    torch: Any = ModuleType("torch")
    torch._C = SimpleNamespace(_GLIBCXX_USE_CXX11_ABI=True)
    tools: Any = ModuleType("setuptools")
    tools.setup, tools.find_packages = (lambda **given: asked.update(given)), list
    fakes = {
        "torch": torch,
        "torch.utils": ModuleType("torch.utils"),
        "torch.utils.cpp_extension": extension,
        "setuptools": tools,
    }
    kept = {name: sys.modules.get(name) for name in fakes}
    before, arguments, place = os.environ.get("TORCH_CUDA_ARCH_LIST"), sys.argv, Path.cwd()
    sys.modules.update(fakes)
    os.environ["TORCH_CUDA_ARCH_LIST"], sys.argv = ";".join(targets), ["setup.py", "build"]
    os.chdir(folder)
    try:
        yield asked
    finally:
        os.chdir(place)
        sys.argv = arguments
        os.environ.pop("TORCH_CUDA_ARCH_LIST")
        if before is not None:
            os.environ["TORCH_CUDA_ARCH_LIST"] = before
        for name, module in kept.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
