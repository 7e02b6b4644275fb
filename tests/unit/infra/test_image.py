"""The recipe of the workers' image: its pins, its order, and the errors of a bad manifest."""

import subprocess
from pathlib import Path
from typing import get_args

import pytest

from infra import image
from infra.manifests import BadManifest
from infra.models.folders import MODEL_FOLDERS
from infra.nodes import CustomNode, custom_nodes, shell_quoted

ROOT = Path(__file__).parents[3]
NODES = custom_nodes(ROOT / "infra" / "nodes.toml")
NODE = '[[node]]\nname = "N"\nrepository = "https://example.com/n"\ncommit = "' + "a" * 40 + '"\n'

COMFYUI_MODEL_FOLDERS = {
    *("audio_encoders", "background_removal", "checkpoints", "clip", "clip_vision", "controlnet", "detection"),
    *("diffusers", "diffusion_models", "embeddings", "frame_interpolation", "geometry_estimation", "gligen"),
    *("hypernetworks", "latent_upscale_models", "loras", "model_patches", "optical_flow", "photomaker", "style_models"),
    *("t2i_adapter", "text_encoders", "unet", "upscale_models", "vae", "vae_approx"),
}
"""The folders of models/ that folder_paths.py of ComfyUI 0.33.0 names."""


def test_the_manifest_has_the_packs_of_the_shipped_workflows() -> None:
    """The manifest, whose entries are pinned to commits, contains the three packs that the shipped workflows need."""
    assert {node.name for node in NODES} >= {
        "ComfyUI-WanVideoWrapper",
        "ComfyUI-VideoHelperSuite",
        "ComfyUI-KJNodes",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NODE + NODE, "n stands there twice"),
        (NODE.replace("a" * 40, "main"), 'nodes.toml, line 1: node "N": commit: "main" is not a whole commit'),
        (NODE + NODE.replace("a" * 40, "main").replace('"N"', '"M"'), ', line 5: node "M": commit: '),
        (
            NODE.replace("https://example.com/n", "git@example.com:n"),
            'node "N": repository: "git@example.com:n" does not match',
        ),
        (NODE + 'branch = "main"\n', 'node "N": branch: is no field of this manifest'),
        (NODE + 'links = { "../x" = "y" }\n', 'node "N": links'),
        (NODE.replace('"N"', '"../N"'), 'node "../N": name'),
        (NODE.replace('name = "N"', ""), "node 1: name: is missing"),
        ("[[node", "nodes.toml is not TOML"),
        ("nodes = 1", "nodes.toml: nodes: is no field of this manifest"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_fault(tmp_path: Path, text: str, words: str) -> None:
    """The error of an invalid manifest names the file, the field and the fault."""
    path = tmp_path / "nodes.toml"
    path.write_text(text)
    with pytest.raises(BadManifest, match=r"nodes\.toml") as caught:
        custom_nodes(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["torch; rm -rf /", "a'b", "$(x)", "x\ny"])
def test_a_requirement_cannot_inject_a_shell_command(text: str) -> None:
    """A requirement is quoted for the shell, and one with shell syntax is refused."""
    with pytest.raises(BadManifest):
        shell_quoted(text)
    assert shell_quoted("numpy>=2,<3") == "'numpy>=2,<3'"


def test_sage_attention_is_compiled_for_the_requested_architectures() -> None:
    """SageAttention is compiled from a pinned commit for the requested architectures; without any, an older release
    is installed."""
    commands = image._sage_attention(("8.9", "9.0"))
    assert f"fetch -q --depth 1 origin {image.SAGE_COMMIT}" in commands[1]
    assert any(
        "TORCH_CUDA_ARCH_LIST='8.9;9.0'" in command and "--no-build-isolation" in command for command in commands
    )
    constraints = image.TORCH_CONSTRAINTS
    fallback = f"{image.ENGINE_PYTHON} -m pip install -c {constraints} {image.SAGE_FALLBACK}"
    assert image._sage_attention(()) == [fallback]


@pytest.mark.parametrize("outcome", ["true", "false"])
def test_a_failed_build_of_sage_attention_does_not_fail_the_deploy(outcome: str) -> None:
    """After a failed build the older release is installed and the log says so; after a successful build it is not."""
    command = next(one for one in image._sage_attention(("8.9",)) if "--no-build-isolation" in one)
    build, fallback = (part for part in command.split(" && ", 1)[1].split("||"))
    script = f"{{ {outcome} ||{fallback}".replace(image.ENGINE_PYTHON, "echo PIP")
    assert build.startswith("{ ")
    ended = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=True)
    assert (image.SAGE_BUILD_FAILED in ended.stdout) == (outcome == "false")
    assert (f"PIP -m pip install -c {image.TORCH_CONSTRAINTS} {image.SAGE_FALLBACK}" in ended.stdout) == (
        outcome == "false"
    )


def test_comfyui_is_installed_at_its_version() -> None:
    """comfy-cli installs ComfyUI at the configured version without torch, and the model paths point to the volume."""
    commands = image._comfyui("0.33.0")
    assert any("--version 0.33.0" in command and "--skip-torch-or-directml" in command for command in commands)
    cli = [command for command in commands if "bin/comfy " in command]
    assert len(cli) == 2
    assert all(f" VIRTUAL_ENV={image.VENV} {image.VENV}/bin/comfy " in command for command in cli)
    assert any("base_path: /models" in command and "extra_model_paths.yaml" in command for command in commands)


def test_every_model_folder_is_mapped_to_the_volume() -> None:
    """Every model folder of ComfyUI is mapped to the volume, because the image contains no models."""
    assert set(MODEL_FOLDERS) >= COMFYUI_MODEL_FOLDERS
    paths = next(command for command in image._comfyui("0.33.0") if "extra_model_paths.yaml" in command)
    assert all(f"  {folder}: {folder}\\n" in paths for folder in COMFYUI_MODEL_FOLDERS)
    assert "  sams: sams\\n" in paths
    assert "  ultralytics_bbox: ultralytics/bbox\\n" in paths


@pytest.mark.parametrize("cuda", get_args(image.Cuda))
def test_each_cuda_has_a_base_and_a_torch(cuda: image.Cuda) -> None:
    """The base image and torch have the same CUDA version, because SageAttention is compiled with both."""
    digits = cuda.removeprefix("cu")
    assert image.CUDA_TAGS[cuda].startswith(f"{digits[:2]}.{digits[2]}.")
    assert "-devel-" in image.CUDA_TAGS[cuda]
    assert [pin.partition("==")[0] for pin in image.TORCH[cuda]] == ["torch", "torchvision", "torchaudio"]


def test_a_custom_node_is_checked_out_at_its_commit() -> None:
    """A pack is checked out at its commit, and its requirements and those of the manifest are installed within the
    lock."""
    node = CustomNode(name="N", repository="https://example.com/n", commit="a" * 40, requirements=("x==1",))
    commands = image._custom_node(node)
    assert commands[-1].endswith(f"pip install -c {image.CONSTRAINTS} 'x==1'")
    assert f"origin {'a' * 40}" in commands[1]
    assert "/opt/comfyui/custom_nodes/N/requirements.txt" in commands[2]
    other = image._custom_node(node.model_copy(update={"requirements_file": "others.txt", "requirements": ()}))
    assert "/N/others.txt" in other[-1]
    assert len(image._custom_node(node.model_copy(update={"requirements_file": ""}))) == 3


def test_a_packs_own_folder_of_models_is_on_the_volume() -> None:
    """A pack's own model folder links to the volume, because the engine's user cannot write to the image."""
    node = CustomNode(name="N", repository="https://example.com/n", commit="a" * 40, links={"ckpts": "there"})
    folder = "/opt/comfyui/custom_nodes/N"
    assert image._custom_node(node)[-1] == f"rm -rf {folder}/ckpts && ln -s /models/there {folder}/ckpts"


def test_some_packs_of_the_manifest_can_be_chosen() -> None:
    """Chosen packs keep the order of the manifest, and an unknown name is refused with a suggestion."""
    path = ROOT / "infra" / "nodes.toml"
    chosen = custom_nodes(path, " rgthree-comfy,ComfyUI-KJNodes ")
    assert [node.name for node in chosen] == ["ComfyUI-KJNodes", "rgthree-comfy"]
    assert custom_nodes(path, "") == ()
    with pytest.raises(BadManifest, match="no pack rgthree: did you mean rgthree-comfy"):
        custom_nodes(path, "rgthree")
