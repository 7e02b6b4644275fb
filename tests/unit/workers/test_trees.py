"""Removal of folders that untrusted code has made."""

import os
from pathlib import Path

import pytest

from workers.trees import empty_tree, remove_tree

LEVELS = 3_000
"""More levels than Python's recursion limit, with a path longer than the system allows."""


def nest(folder: Path, levels: int) -> None:
    """Make nested folders with a file in each, one by one, because the full path is too long to use."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("a", dir_fd=at)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=at))
        inner = os.open("a", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)


def test_a_deep_folder_is_emptied(tmp_path: Path) -> None:
    """A folder deeper than Python's recursion limit and the path limit is emptied, and the folder itself stays."""
    nest(tmp_path, LEVELS)
    empty_tree(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tree_is_removed_with_its_folder(tmp_path: Path) -> None:
    """A tree, a link or a missing path is removed, and links are not followed."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "inner" / "link").symlink_to(tmp_path / "kept")
    for name in ("tree", "link", "nothing"):
        remove_tree(tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root needs no modes")
def test_a_folder_without_permissions_is_removed(tmp_path: Path) -> None:
    """A folder whose permissions a node has removed is deleted."""
    (tmp_path / "shut" / "inner").mkdir(parents=True)
    (tmp_path / "shut" / "inner").chmod(0)
    (tmp_path / "shut").chmod(0)
    empty_tree(tmp_path)
    assert list(tmp_path.iterdir()) == []
