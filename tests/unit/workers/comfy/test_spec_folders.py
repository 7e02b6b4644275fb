"""A worker empties its folders before each job, so they must be its own."""

from pathlib import Path

import pytest

from workers.comfy.spec import EngineFolders
from workers.errors import EngineUnavailable


def test_a_folder_with_someone_elses_files_is_refused(tmp_path: Path) -> None:
    """A ComfyUI's own folder, named by mistake, keeps its pictures."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "precious.png").write_bytes(b"x")
    with pytest.raises(EngineUnavailable, match="not this worker's"):
        EngineFolders(tmp_path).make()
    assert (tmp_path / "output" / "precious.png").exists()


def test_a_workers_own_folder_is_used_again(tmp_path: Path) -> None:
    """After a restart it holds what the last job left."""
    folders = EngineFolders(tmp_path / "new")
    folders.make()
    (folders.output / "old.png").write_bytes(b"x")
    folders.make()
    assert folders.input.is_dir()
