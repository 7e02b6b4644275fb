"""The worker image. Its layers are ordered from rarely to often changed, so that a deploy rebuilds few of them.

CUDA and system packages → torch → SageAttention → ComfyUI → custom nodes, one layer each → our requirements and code

Every pip command for the engine's environment takes its versions from the lock (`infra.image_lock`).

ComfyUI has its own Python environment, separate from this project's packages. The last step starts ComfyUI without a
GPU, and fails the build if a custom node does not import or a shipped workflow uses a missing node.
"""

from collections.abc import Mapping
from typing import Literal

import modal

from infra.image_lock import full_lock, torch_lock
from infra.models.folders import MODEL_FOLDERS, PACK_FOLDERS
from infra.nodes import CustomNode, shell_quoted
from workers.isolation import FIRST_USER, USER_NAME

Cuda = Literal["cu130", "cu128"]
"""CUDA versions, by the names of torch's builds."""
CUDA_TAGS: Mapping[Cuda, str] = {"cu130": "13.0.2-devel-ubuntu22.04", "cu128": "12.8.1-devel-ubuntu22.04"}
"""The tags of the base images. `devel` images have the nvcc that compiles SageAttention."""
TORCH: Mapping[Cuda, tuple[str, ...]] = {
    "cu130": ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"),
    "cu128": ("torch==2.9.1", "torchvision==0.24.1", "torchaudio==2.9.1"),
}
"""The torch release of each CUDA version. PyPI has one Linux build of each release: CUDA 13.0 for 2.11, CUDA 12.8 for
2.9. So the release determines the CUDA version, and no other index is needed. ComfyUI's fast fp8 operations need
CUDA 13."""
PYTHON = "3.12"
COMFY_CLI = "comfy-cli==1.23.0"
SAGE_REPOSITORY = "https://github.com/thu-ml/SageAttention"
SAGE_COMMIT = "d1a57a546c3d395b1ffcbeecc66d81db76f3b4b5"
SAGE_SOURCES = "/opt/sageattention"
SAGE_FALLBACK = "sageattention==1.0.6"
SAGE_BUILD_FAILED = "WARNING: SageAttention 2 did not compile: its older release is installed instead, which is slower"
SAGE_BUILD_TOOLS = ("setuptools", "wheel", "packaging", "ninja")
COMPILE_JOBS = 8

COMFYUI = "/opt/comfyui"
VENV = f"{COMFYUI}-venv"
ENGINE_PYTHON = f"{VENV}/bin/python"
TORCH_CONSTRAINTS = "/opt/comfyui-torch-constraints.txt"
CONSTRAINTS = "/opt/comfyui-constraints.txt"
"""The path of the lock in the image: every package of the engine's environment with its version."""
MODELS = "/models"
"""The read-only mount point of the models' volume."""

SOURCES = ("app", "comfyui_modal", "infra", "storage", "workers", "workflows")
_UNWANTED = ["**/__pycache__", "**/*.pyc"]

_CERTIFICATES = "ca-certificates"
"""The CA certificates of the S3 client, which has none of its own."""
_SYSTEM_PACKAGES = (_CERTIFICATES, "git", "ffmpeg", "build-essential", "ninja-build", "libgl1", "libglib2.0-0")

_MODEL_PATHS = "\\n".join(
    ["comfyui_modal:", f"  base_path: {MODELS}"]
    + [f"  {folder}: {folder}" for folder in MODEL_FOLDERS]
    + [f"  {kind}: {folder}" for kind, folder in PACK_FOLDERS.items()]
)


def control_image() -> modal.Image:
    """Return the image of all functions without a GPU: this project's code and its requirements."""
    image = modal.Image.debian_slim(python_version=PYTHON).apt_install(_CERTIFICATES)
    image = image.pip_install_from_requirements("requirements/base.txt")
    # The API serves the guides from the folder `docs` next to its package `app`.
    image = image.add_local_dir("docs", "/root/docs", ignore=["**/openapi.json", "**/*.webp"])
    return image.add_local_python_source(*SOURCES, ignore=_UNWANTED)


def comfyui_image(
    *, cuda: Cuda, comfyui_version: str, nodes: tuple[CustomNode, ...], sage_architectures: tuple[str, ...]
) -> modal.Image:
    """Return the image of a ComfyUI with these custom nodes. A failed check fails the build and the deploy."""
    image = modal.Image.from_registry(f"nvidia/cuda:{CUDA_TAGS[cuda]}", add_python=PYTHON)
    image = image.entrypoint([])  # NVIDIA's entrypoint prints a banner and must not run before Modal's
    image = image.env({"DEBIAN_FRONTEND": "noninteractive", "PIP_NO_CACHE_DIR": "1"}).apt_install(*_SYSTEM_PACKAGES)
    # Copied into a layer, because later commands of the build read it. Modal mounts other local files at run time only.
    image = image.add_local_file(torch_lock(cuda), TORCH_CONSTRAINTS, copy=True)
    image = image.run_commands(f"python -m venv {VENV}", pip_install(*TORCH[cuda], constraints=TORCH_CONSTRAINTS))
    image = image.run_commands(*_sage_attention(sage_architectures))
    image = image.add_local_file(full_lock(cuda), CONSTRAINTS, copy=True)
    image = image.run_commands(*_comfyui(comfyui_version))
    for node in nodes:
        image = image.run_commands(*_custom_node(node))
    image = image.run_commands(*_engine_user())
    image = image.pip_install_from_requirements("requirements/base.txt")
    image = image.add_local_python_source(*SOURCES, copy=True, ignore=_UNWANTED)
    return image.run_commands("python -I /root/comfyui_modal.py infra.check_image")


def lock_sources(*, cuda: Cuda, comfyui_version: str, nodes: tuple[CustomNode, ...]) -> tuple[str, ...]:
    """Return the inputs of the image's lock, as its header lists them."""
    packages = " ".join((*TORCH[cuda], *SAGE_BUILD_TOOLS, COMFY_CLI))
    packs = (f"{node.name} {node.commit} {node.requirements_file} {' '.join(node.requirements)}" for node in nodes)
    return (packages, f"ComfyUI {comfyui_version}", *(pack.strip() for pack in packs))


def pip_install(*what: str, constraints: str = CONSTRAINTS) -> str:
    """Return the command that installs packages into the engine's environment, at the lock's versions."""
    return f"{ENGINE_PYTHON} -m pip install -c {constraints} {' '.join(what)}"


def _sage_attention(architectures: tuple[str, ...]) -> list[str]:
    """Return the commands that compile SageAttention 2 for these architectures.

    Without any architecture they install the older release from PyPI, which compiles its kernels at run time.
    """
    # A failed build falls back to that release too: an optimisation must not fail a deploy, and workers probe anyway.
    fallback = pip_install(SAGE_FALLBACK, constraints=TORCH_CONSTRAINTS)
    if not architectures:
        return [fallback]
    wanted = f"CC=gcc CXX=g++ TORCH_CUDA_ARCH_LIST='{';'.join(architectures)}' MAX_JOBS={COMPILE_JOBS} EXT_PARALLEL=1"
    build = f"{wanted} {pip_install('--no-build-isolation', '.', constraints=TORCH_CONSTRAINTS)}"
    return [
        *_checkout(SAGE_REPOSITORY, SAGE_COMMIT, SAGE_SOURCES),
        sage_flags_patch(f"{SAGE_SOURCES}/setup.py"),
        pip_install(*SAGE_BUILD_TOOLS, constraints=TORCH_CONSTRAINTS),
        f"cd {SAGE_SOURCES} && {{ {build} || {{ echo '{SAGE_BUILD_FAILED}'; {fallback}; }}; }}",
        f"rm -rf {SAGE_SOURCES}",
    ]


def sage_flags_patch(setup: str) -> str:
    """Return the command that makes setup.py compile the extension of Hopper's kernels for Hopper only.

    SageAttention's setup.py compiles every extension for every requested architecture. These kernels use instructions
    of 9.0 only, so the build fails if another architecture is requested too (its issues 291 and 360). The patch omits
    the pairs `-gencode arch=…` of other architectures from this extension.
    """
    hopper = (
        '[flag for flag, after in zip(NVCC_FLAGS, NVCC_FLAGS[1:] + [""]) '
        'if "arch=" not in flag + after or "90a" in flag + after]'
    )
    return f'sed -i \'/_qattn_sm90"/,/extra_link_args/ s/"nvcc": NVCC_FLAGS/"nvcc": {_for_sed(hopper)}/\' {setup}'


def _for_sed(text: str) -> str:
    """Escape a text for the replacement part of a sed command between single quotes."""
    return text.replace("/", "\\/").replace("&", "\\&")


def _comfyui(version: str) -> list[str]:
    """Return the commands that install ComfyUI with comfy-cli."""
    # Without VIRTUAL_ENV, comfy-cli would create an environment in the workspace and install ComfyUI there.
    comfy = f"PIP_CONSTRAINT={CONSTRAINTS} VIRTUAL_ENV={VENV} {VENV}/bin/comfy --skip-prompt --workspace {COMFYUI}"
    return [
        pip_install(COMFY_CLI),
        f"{comfy} tracking disable",
        f"{comfy} install --nvidia --version {version} --skip-manager --skip-torch-or-directml",
        f"printf '{_MODEL_PATHS}\\n' > {COMFYUI}/extra_model_paths.yaml",
    ]


def _custom_node(node: CustomNode) -> list[str]:
    folder = f"{COMFYUI}/custom_nodes/{node.name}"
    commands = _checkout(node.repository, node.commit, folder)
    if node.requirements_file:
        listed = f"{folder}/{node.requirements_file}"
        commands.append(f"if [ -f {listed} ]; then {pip_install('-r', listed)}; fi")
    commands += [f"rm -rf {folder}/{own} && ln -s {MODELS}/{kept} {folder}/{own}" for own, kept in node.links.items()]
    if node.requirements:
        commands.append(pip_install(*map(shell_quoted, node.requirements)))
    return commands


def _engine_user() -> list[str]:
    """Return the commands that create ComfyUI's user and compile bytecode, which that user cannot write."""
    return [
        f"useradd --uid {FIRST_USER} --no-create-home --shell /usr/sbin/nologin {USER_NAME}",
        f"{ENGINE_PYTHON} -m compileall -q -j 0 {COMFYUI} || true",
    ]


def _checkout(repository: str, commit: str, folder: str) -> list[str]:
    """Return the commands that fetch only this commit, independently of the branches."""
    return [
        f"git init -q {folder} && git -C {folder} remote add origin {repository}",
        f"git -C {folder} fetch -q --depth 1 origin {commit} && git -C {folder} checkout -q FETCH_HEAD",
    ]
