"""Removing folders that code of strangers made."""

import os
from pathlib import Path

import pytest

from workers.trees import empty_tree, remove_tree

LEVELS = 3_000
"""More than Python may call itself, and longer than a path may be."""


def nest(folder: Path, levels: int) -> None:
    """Folders in each other with a file in each, made one by one: the path of the last is too long to be used."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("a", dir_fd=at)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=at))
        inner = os.open("a", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)


def test_a_folder_is_emptied_however_deep_it_is(tmp_path: Path) -> None:
    """Deeper than Python's recursion and longer than a path; the folder itself stays."""
    nest(tmp_path, LEVELS)
    empty_tree(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tree_is_removed_with_its_folder(tmp_path: Path) -> None:
    """Also one that is not there, a file and a link, which is not followed."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "inner" / "link").symlink_to(tmp_path / "kept")
    for name in ("tree", "link", "nothing"):
        remove_tree(tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root needs no modes")
def test_a_folder_without_modes_is_removed(tmp_path: Path) -> None:
    """A node may take every right from a folder of its own."""
    (tmp_path / "shut" / "inner").mkdir(parents=True)
    (tmp_path / "shut" / "inner").chmod(0)
    (tmp_path / "shut").chmod(0)
    empty_tree(tmp_path)
    assert list(tmp_path.iterdir()) == []
