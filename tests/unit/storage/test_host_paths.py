"""Text shown to tenants contains no host path and stays readable."""

import time
from pathlib import Path

import pytest

from storage.intake.host_paths import HostPaths

ENGINE = Path("/tmp/x y/engines/worker-1")  # noqa: S108  only a name
KNOWN = HostPaths(
    {ENGINE / "input": "input", ENGINE / "output": "output", ENGINE: "engine", Path("/opt/fork"): "ComfyUI"}
)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"No such file: {ENGINE}/input/a.png", "No such file: input/a.png"),
        (
            f"[Errno 2] No such file or directory: '{ENGINE}/input/a.png'",
            "[Errno 2] No such file or directory: 'input/a.png'",
        ),
        (f"{ENGINE}/output", "output"),
        (f"{ENGINE}/outputs/a", "engine/outputs/a"),
        ('  File "/opt/fork/nodes.py", line 12, in load', '  File "ComfyUI/nodes.py", line 12, in load'),
        ("/home/bob/ComfyUI/models/vae/x.pt is broken", "models/vae/x.pt is broken"),
        ("/home/bob/ComfyUI/custom_nodes/p/n.py:3: Warning", "custom_nodes/p/n.py:3: Warning"),
        ("/home/bob/comfyui/execution.py", "ComfyUI/execution.py"),
        ("in /srv/venv/lib/python3.11/site-packages/PIL/Image.py", "in site-packages/PIL/Image.py"),
        ("/usr/lib/python3.12/json/decoder.py", "python3.12/json/decoder.py"),
        ("--input-directory=/data/secret/input", "--input-directory=input"),
        ("(see /var/log/comfy.log)", "(see …/comfy.log)"),
        ("file:///home/bob/x.png", "…/x.png"),
        ("sqlite:////home/bob/user.db", "…/user.db"),
        ("'/Users/Bob Smith/pictures/a b.png'", "'…/a b.png'"),
        (r"C:\Users\bob\ComfyUI\input\a.png not found", "input/a.png not found"),
        (r"'C:\\Users\\Bob Smith\\a.png'", "'…/a.png'"),
        (r"\\server\share\bob\a.png", "…/a.png"),
        ("D:/comfy/output/a.png", "output/a.png"),
    ],
)
def test_a_host_path_is_shortened(said: str, shown: str) -> None:
    """A host path is shortened to the part that identifies the file."""
    assert KNOWN.hidden(said) == shown


@pytest.mark.parametrize(
    "said",
    [
        "https://example.com/a/b.png answered 404",
        "input/a.png",
        "sdxl/base.safetensors not in ['sdxl/base.safetensors', 'vae/x.pt']",
        "GET /queue: 500",
        "1/2 of 3/4",
        "mat1 and mat2 shapes cannot be multiplied (77x2048 and 768x320)",
        "ratio 16:9, and/or 4:3",
        "{'a': 1} [0, 1] C: drive",
    ],
)
def test_other_text_is_unchanged(said: str) -> None:
    """URLs, relative names and numbers are unchanged."""
    assert KNOWN.hidden(said) == said


def test_a_resolved_path_is_recognised(tmp_path: Path) -> None:
    """A folder behind a symbolic link is recognised by both of its paths."""
    (tmp_path / "real folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real folder")
    paths = HostPaths({tmp_path / "link": "input"})
    assert paths.hidden(f"{tmp_path}/real folder/a.png and {tmp_path}/link/a.png") == "input/a.png and input/a.png"


def test_every_string_of_a_document_is_shortened() -> None:
    """Keys and nested values of a document, such as ComfyUI's `node_errors`, are shortened."""
    document = {"1": {"errors": [{"details": "/home/bob/ComfyUI/input/a.png", "n": 1}]}, "/home/bob/x": None}
    assert HostPaths().hidden_in(document) == {"1": {"errors": [{"details": "input/a.png", "n": 1}]}, "…/x": None}


@pytest.mark.parametrize("piece", ["/a", "'", "/", "\\", "C:\\", "'/", "/a ", "\\\\a", "sqlite:"])
def test_hostile_text_costs_linear_time(piece: str) -> None:
    """Text that resembles paths is processed in linear time; quadratic time would take minutes."""
    started = time.process_time()
    KNOWN.hidden(piece * (100_000 // len(piece)))
    assert time.process_time() - started < 10
