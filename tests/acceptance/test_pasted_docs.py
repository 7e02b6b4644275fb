"""The pages for newcomers work when their blocks are pasted word for word."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from infra.demo import write_photograph
from tests.support.pasted import ROOT, folder_like_the_checkout, paste, shell_blocks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as `make demo` leaves it."""
    (tmp_path / "outputs").mkdir()
    write_photograph(tmp_path / "outputs" / "still_00001_.png")
    return folder_like_the_checkout(tmp_path)


def port_of_the_listener() -> int:
    """Return a free port below those from which the kernel chooses: `up` could get one of these before the listener."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def test_the_tour_works_as_pasted(folder: Path) -> None:
    """Each block of the README's tour has its result, and only the graph with the two mistakes is refused."""
    blocks = shell_blocks(ROOT / "README.md", "The 60-second tour")
    in_background = "make up PORT=0 > up.log & UP=$!; until grep -qs ready: up.log || ! kill -0 $UP; do sleep 0.2; done"
    seen = paste(blocks, folder, replaced={"make up ": f"{in_background} ", "9000": str(port_of_the_listener())})
    assert seen.failed == ["comfyui-modal run wrong.json --image outputs/still_00001_.png"], seen.output
    for shown in (
        "did you mean ImageBlur",
        "did you mean lanczos?",
        '"filename":"blue_00001_.png"',
        "verified comfyui.job",
    ):
        assert shown in seen.output
    assert (folder / "outputs" / "soft_00001_.png").is_file()


@pytest.mark.soak("acceptance/test_pasted_docs.py::test_the_tour_works_as_pasted")
def test_the_tutorial_works_as_pasted(folder: Path) -> None:
    """Each step of the tutorial has its result, and only the steps that are meant to be refused fail."""
    if shutil.which("node") is None:
        pytest.skip("the tutorial's receiver needs Node")
    seen = paste(shell_blocks(ROOT / "docs/tutorial/first-feature.md"), folder)
    assert seen.failed == [
        "comfyui-modal run postcard --media photo=outputs/still_00001_.png --set width=9999",
        "comfyui-modal run my-workflows/postcard.json --media photo.png=outputs/still_00001_.png",
        "COMFYUI_MODAL_NODES=nodes.toml comfyui-modal deploy --dry-run",
        "COMFYUI_MODAL_NODES=nodes.toml comfyui-modal deploy --dry-run",
    ], seen.output
    assert 'commit: "main" is not a whole commit' in seen.output
    assert "ok   manifests: 1 nodes" in seen.output
