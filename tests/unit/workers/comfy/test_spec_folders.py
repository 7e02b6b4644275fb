"""A worker empties its folders before each job, so it must own them."""

import os
from pathlib import Path

import pytest

from workers.comfy.spec import EngineFolders
from workers.errors import EngineMisconfigured, EngineUnavailable


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    """A folder with other files, such as a ComfyUI's own output folder, is refused and stays untouched."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "precious.png").write_bytes(b"x")
    with pytest.raises(EngineUnavailable, match="not this worker's"):
        EngineFolders(tmp_path).make()
    assert (tmp_path / "output" / "precious.png").exists()


def test_a_workers_own_folder_is_reused(tmp_path: Path) -> None:
    """A worker's own folder is reused after a restart, even with files of the last job."""
    folders = EngineFolders(tmp_path / "new")
    folders.make()
    (folders.output / "old.png").write_bytes(b"x")
    folders.make()
    assert folders.input.is_dir()


def test_what_an_earlier_engine_left_in_its_user_folder_ends_with_it(tmp_path: Path) -> None:
    """A new start finds an empty user folder: scripts in it would run in every later engine."""
    folders = EngineFolders(tmp_path / "new")
    folders.make()
    scripts = folders.user / "__manager" / "startup-scripts"
    scripts.mkdir(parents=True)
    (scripts / "install-scripts.txt").write_text("anything")
    folders.make()
    assert list(folders.user.iterdir()) == []


def test_two_workers_do_not_share_a_folder(tmp_path: Path) -> None:
    """A second worker with the same folder is refused until the first one has left it: each empties its folders."""
    folders = EngineFolders(tmp_path / "new")
    lock = folders.lock()
    with pytest.raises(EngineMisconfigured, match="in use by another worker"):
        folders.lock()
    os.close(lock)
    os.close(folders.lock())
